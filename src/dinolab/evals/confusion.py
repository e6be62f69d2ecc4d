"""A confusion matrix as a picture."""

from pathlib import Path

import numpy as np

from dinolab.plotting import new_figure, readable, save

NUMBERS = 30  # most classes with which each cell shows its share
NAMES = 100  # most classes with which rows and columns are named
CELL = 0.36  # inches, where there are names
LONGEST = 24  # characters of a name


def draw_confusion(counts: np.ndarray, classes: list[str], title: str, out: Path) -> None:
    """Write a PNG of counts (C, C), rows true and columns predicted classes, as shares of each row.

    The colour map, cividis, looks the same to colour-blind readers.
    """
    number = len(classes)
    images = counts.sum(1, keepdims=True)
    shares = np.divide(counts, images, out=np.zeros(counts.shape), where=images > 0)
    side = max(4.0, CELL * number) if number <= NAMES else 9.0
    figure = new_figure(side + 3, side + 2)
    axes = figure.add_subplot()
    drawn = axes.imshow(shares, cmap="cividis", vmin=0, vmax=max(shares.max(), 0.01), interpolation="nearest")
    axes.set_title(title, fontsize=12, loc="left", pad=10)
    axes.set(xlabel="predicted", ylabel="true")
    if number <= NAMES:
        short = [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in map(readable, classes)]
        axes.set_xticks(range(number), short, rotation=90, fontsize=9, parse_math=False)
        axes.set_yticks(range(number), short, fontsize=9, parse_math=False)
    if number <= NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if round(100 * share):
                colour = "black" if share > 0.55 * shares.max() else "white"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6, format=lambda share, _: f"{100 * share:.0f} %")
    bar.set_label("share of the true class's images")
    for spine in axes.spines.values():
        spine.set_visible(False)
    save(figure, out, tight=True)
