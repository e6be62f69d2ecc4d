"""What was found for each query: a list, and a picture of some queries with their best answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dinolab.data.decode import BrokenImage, read_image
from dinolab.evals.results import write_csv
from dinolab.features.views import Change, View
from dinolab.plotting import COLOURS, new_figure, readable, save
from dinolab.rundir import PICTURES

LISTED = "answers.csv"
DRAWN, ANSWERS = 8, 7  # queries in the picture, and answers of each
SIDE = 160  # pixels of a small picture
RIGHT, WRONG, NOT_COUNTED = "right", "wrong", "not counted"  # verdicts
FRAMES = {RIGHT: COLOURS[2], WRONG: COLOURS[1], NOT_COUNTED: "0.6"}
LONGEST = 22  # characters of a name in the picture


class Image(NamedTuple):
    path: str  # its location
    name: str


class Answer(NamedTuple):
    image: Image
    verdict: str  # a key of FRAMES


class Asked(NamedTuple):
    """A query and its best answers."""

    image: Image
    position: int  # in its source
    average_precision: float
    best: list[Answer]


def keep_answers(folder: Path | None, title: str, asked: Sequence[Asked], change: Change | None = None) -> None:
    """Write answers.csv and pictures/answers.png; nothing without a folder.

    Args:
        title: of the picture.
        change: what is done to the image of a query before it is searched for.
    """
    if not folder:
        return
    rows = (
        [one.image.name, f"{one.average_precision:.6f}", *(f"{best.image.name} ({best.verdict})" for best in one.best)]
        for one in asked
    )
    most = max((len(one.best) for one in asked), default=0)
    write_csv(folder / LISTED, ["query", "average_precision", *(str(n + 1) for n in range(most))], rows)
    draw_answers(spread_out(asked, DRAWN), title, change, folder / PICTURES / "answers.png")


def spread_out(asked: Sequence[Asked], number: int) -> list[Asked]:
    """Queries from the best to the worst average precision, evenly spaced."""
    in_order = sorted(asked, key=lambda one: -one.average_precision)
    at = np.linspace(0, len(in_order) - 1, min(number, len(in_order))).round().astype(int)
    return [in_order[i] for i in at]


def draw_answers(asked: Sequence[Asked], title: str, change: Change | None, out: Path) -> None:
    """A row for each query: its image, and its best answers, framed by their verdicts."""
    columns = 1 + max(min(ANSWERS, len(one.best)) for one in asked)
    figure = new_figure(1.25 * columns, 1.5 * len(asked) + 0.7)
    panels = figure.subplots(len(asked), columns, squeeze=False)
    for row, one in zip(panels, asked):
        images = [(one.image.path, change, one.position, "", "0.2")]
        images += [(best.image.path, None, 0, best.verdict, FRAMES[best.verdict]) for best in one.best[:ANSWERS]]
        for axes in row[len(images) :]:
            axes.set_axis_off()
        for axes, (path, changed, position, verdict, colour) in zip(row, images):
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(color=colour, linewidth=3 if verdict else 1)
            axes.imshow(small(path, changed, position))
            axes.set_xlabel(verdict, fontsize=7, color=colour)
        name = readable(Path(one.image.name).stem)
        name = name if len(name) <= LONGEST else f"{name[:LONGEST]}…"
        row[0].set_xlabel(f"{name}\nAP {100 * one.average_precision:.1f}%", fontsize=7)
    panels[0, 0].set_title("query", fontsize=9)
    for number, axes in enumerate(panels[0, 1:], 1):
        axes.set_title(str(number), fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    save(figure, out)


def small(path: str, change: Change | None, position: int) -> np.ndarray:
    """A small picture of an image, uint8 (SIDE, SIDE, 3), on white; white alone where it cannot be read."""
    square = np.full((SIDE, SIDE, 3), 255, np.uint8)
    try:
        view = View((SIDE, SIDE), "within", change)(position, read_image(path)).transpose(1, 2, 0)
    except BrokenImage:
        return square
    top, left = (SIDE - view.shape[0]) // 2, (SIDE - view.shape[1]) // 2
    square[top : top + view.shape[0], left : left + view.shape[1]] = view
    return square
