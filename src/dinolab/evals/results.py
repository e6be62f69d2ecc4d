"""Files and tables of results: result.json, predictions.csv, the confusion matrix, and the table in the terminal.

M test images, C classes.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from dinolab.errors import printable
from dinolab.evals.confusion import draw_confusion
from dinolab.evals.contract import Evaluation, Figure
from dinolab.evals.result import Measured, Result
from dinolab.evals.scores import count_confusions
from dinolab.files import beside, write_whole
from dinolab.rundir import CONFUSION, PREDICTIONS, RESULT


@dataclass(frozen=True)
class Predictions:
    """The class that was predicted for each test image."""

    images: list[str]  # names of all test images
    kept: np.ndarray  # int (M,), positions in `images` of those that could be read
    classes: list[str]
    predicted: np.ndarray  # int (M,), -1 where the features are not finite
    probability: np.ndarray  # float (M,), of the predicted class
    truth: np.ndarray | None  # int (M,); None without labels

    def write(self, folder: Path, title: str) -> None:
        """predictions.csv, and with labels confusion.png; an earlier evaluation's are replaced.

        All files are written under other names first, and the earlier result.json is removed when they are ready: from then until
        the new one is written, which is the last file, the folder holds no result, and never one that goes with other predictions.
        A process that is killed before leaves the earlier evaluation whole.

        Without labels, predictions.csv has a line for every image, as a submission needs it: no label where an image could not be
        read.
        """
        labels = [self.classes[c] if c >= 0 else "" for c in self.predicted]
        if self.truth is None:
            by_position = dict(zip(self.kept.tolist(), labels))
            rows = ((name, by_position.get(i, "")) for i, name in enumerate(self.images))
            with beside(folder / PREDICTIONS) as listing:
                write_csv(listing, ["filename", "label"], rows)
                (folder / RESULT).unlink(missing_ok=True)
                (folder / CONFUSION).unlink(missing_ok=True)
            return
        true_labels = (self.classes[c] for c in self.truth)
        scored = zip((self.images[i] for i in self.kept), true_labels, labels, (f"{p:.6f}" for p in self.probability))
        counts = count_confusions(self.predicted, self.truth, len(self.classes))
        with beside(folder / CONFUSION) as drawing, beside(folder / PREDICTIONS) as listing:
            write_csv(listing, ["filename", "label", "predicted", "probability"], scored)
            draw_confusion(counts, self.classes, title, drawing)
            (folder / RESULT).unlink(missing_ok=True)


def write_csv(file: Path, columns: list[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file; it is whole or not there."""
    with beside(file) as place, place.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_result(folder: Path, result: Result) -> None:
    """Write result.json. It is the last file of an evaluation: a folder that has one is complete."""
    content = json.dumps(result.to_json(), indent=2, default=str) + "\n"
    write_whole(folder / RESULT, content.encode(errors="surrogateescape"))


def with_interval(figure: Figure, found: Measured) -> str:
    """76.8% (74.2% to 79.4%)"""
    interval = " ({} to {})".format(*map(figure.text, found.interval)) if found.interval else ""
    return figure.text(found.value) + interval


def in_one_line(result: Result) -> str:
    """<Result of knn, runs/mine: accuracy 76.8% (74.2% to 79.4%), 1,000 test images>"""
    from dinolab.evals import EVALS  # here: the evaluations import this file

    evaluation = EVALS.get(result.evaluation)
    declared = {figure.key: figure for figure in evaluation.FIGURES} if evaluation else {}
    figures = ((declared.get(key) or Figure(key, key, ""), found) for key, found in result.figures.items())
    texts = [f"{figure.title} {with_interval(figure, found)}" for figure, found in figures] or ["no figures"]
    if "test_images" in result.data:
        texts.append(f"{result.data['test_images']:,} test images")
    return printable(f"<Result of {result.evaluation}, {result.encoder['name']}: {', '.join(texts)}>")


def table(result: Result, evaluation: Evaluation) -> Table:
    """For the terminal: the figures, the main one under other settings and over seeds, and the classes, worst first."""
    title = f"{result.encoder['name']}: {evaluation.title}"
    shown = Table(title=escape(printable(title)), title_justify="left", show_edge=False, min_width=min(len(title), 78))
    main = evaluation.main
    for heading in ("", main.title, "test images"):
        shown.add_column(heading, justify="left" if not heading else "right")
    images = f"{result.data['test_images']:,}" if "test_images" in result.data else ""
    for figure in evaluation.FIGURES:
        if figure.key in result.figures:
            name = "[bold]all" if figure is main else escape(figure.title)
            shown.add_row(name, f"[bold]{with_interval(figure, result.figures[figure.key])}", images)
    if result.seeds:
        mean, deviation = (main.text(result.seeds[key]) for key in ("mean", "std"))
        shown.add_row(f"mean of {len(result.seeds['seed'])} seeds", f"{mean} ± {deviation}", images)
    for name, found in result.tries.items():
        text = f"{main.text(found['mean'])} ± {main.text(found['std'])}"
        shown.add_row(f"{name}, mean of {len(found['value'])} draws", text, images)
    for name, value in result.other.items():
        shown.add_row(name, main.text(value), images)
    for test in result.tests:
        if test.main:
            shown.add_row(
                escape(printable(test.data["test"])), with_interval(main, test.main), f"{test.data['test_images']:,}"
            )
    shown.add_section()
    for name, values in result.parts.items():
        texts = [
            f"{figure.title} {figure.text(values[figure.key])}" for figure in evaluation.FIGURES if figure.key in values
        ]
        shown.add_row(escape(printable(name)), escape(", ".join(texts)), "")
    for name, one in sorted(result.per_class.items(), key=lambda item: item[1]["accuracy"]):
        shown.add_row(escape(printable(name)), f"{one['accuracy']:.1%}", f"{one['images']:,}")
    return shown
