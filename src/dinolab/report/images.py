"""Pictures of the data itself, where it is at hand: a sample, and what the best and the worst classes look like."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.sources import open_source, subset
from dinolab.data.types import Source
from dinolab.evals.results import count_confusions
from dinolab.options import Config
from dinolab.report.facts import Result
from dinolab.report.pictures import Grid, Picture, picture
from dinolab.runs.build import monitor_sources, open_data

SAMPLE = 24
CLASSES = 3  # best, and worst
EXAMPLES = 4  # of each, right and wrong


class Prediction(NamedTuple):
    name: str
    label: str
    predicted: str
    probability: float


class Matrix(NamedTuple):
    classes: list[str]
    counts: list[list[int]]  # true classes down, predicted across
    shares: list[list[float]]  # of each row


def open_images(cfg: Config, folder: Path) -> tuple[Source, Source, Source]:
    """What was trained on; what votes and what is asked, as in the run: the same where it has asked nothing.

    Raises UserError where they are not at hand.
    """
    source = open_data(cfg, folder / "sources.json.gz")  # the listing that training has left there, if it is still true
    votes, asked = monitor_sources(cfg, source, lambda _: None) or (source, source)
    return source, votes, asked


def class_counts(source: Source) -> list[tuple[str, int]]:
    if source.labels is None:
        return []
    return list(zip(source.classes, np.bincount(source.labels, minlength=len(source.classes)).tolist()))


def sample(source: Source) -> Grid:
    drawn = subset(source, SAMPLE, seed=0)
    labels = [""] * len(drawn) if drawn.labels is None else [drawn.classes[n] for n in drawn.labels]
    row = [
        found for path, label in zip(drawn.paths, labels) if (found := photo(path, label or "training image", label))
    ]
    return Grid("A sample", f"{len(row)} of {len(source):,} training images, drawn at random.", [row], flows=True)


def photo(path: str, alt: str, caption: str, mark: str = "") -> Picture | None:
    try:
        return picture(read_image(path), alt, caption, mark)
    except BrokenImage:
        return None


def read_predictions(result: Result, problems: list[str]) -> list[Prediction]:
    """Empty where there are none with labels."""
    file = result.folder / "predictions.csv"
    if not file.is_file():
        return []
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
            rows = csv.DictReader(opened)
            return [Prediction(r["filename"], r["label"], r["predicted"], float(r["probability"])) for r in rows]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        problem = f"{file.parent.name}/{file.name}: left out, not predictions with labels ({error!r})"
        problems += [problem] if problem not in problems else []
        return []


def confusion(predictions: Sequence[Prediction]) -> Matrix:
    classes = sorted({p.label for p in predictions} | {p.predicted for p in predictions if p.predicted})
    number = {name: n for n, name in enumerate(classes)} | {"": -1}
    said = np.array([number[p.predicted] for p in predictions])
    counts = count_confusions(said, np.array([number[p.label] for p in predictions]), len(classes))
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    return Matrix(classes, counts.tolist(), shares.tolist())


def class_examples(result: Result, predictions: Sequence[Prediction]) -> list[Grid]:
    """The best and the worst classes, each with images that were told right and wrong. Raises UserError without the images."""
    order = sorted(result.per_class, key=lambda name: result.per_class[name]["accuracy"])
    few = min(CLASSES, len(order) // 2)
    if not few or not predictions:
        return []
    where = test_images(result)
    note = "Surest answers first: right ones, then wrong ones with what they were taken for."
    grids = []
    for what, name in [*(("Best", name) for name in order[-few:][::-1]), *(("Worst", name) for name in order[:few])]:
        found = result.per_class[name]
        row = examples([p for p in predictions if p.label == name], where)
        grids.append(
            Grid(f"{what}: {name}, {100 * found['accuracy']:.1f} % of {found['images']:,}", note, [row], flows=True)
        )
    return grids


def test_images(result: Result) -> dict[str, str]:
    """Where each test image lies, by its name in predictions.csv; of a source that was split, all are named."""
    of = "test" if result.data.get("split") == "given" else "train"
    source = open_source(str(result.data.get(of)), option=f"the {of} images of {result.folder}")
    return dict(zip(source.names(), source.paths))


def examples(predictions: Sequence[Prediction], where: dict[str, str]) -> list[Picture]:
    found: list[Picture] = []
    for right in (True, False):
        some = sorted((p for p in predictions if (p.label == p.predicted) == right), key=lambda p: -p.probability)
        for p in some[:EXAMPLES]:
            said = p.predicted or "nothing"
            caption = f"{'✓' if right else '✗'} {said} {100 * p.probability:.0f} %"
            alt = f"{os.path.basename(p.name)}: a {p.label}, taken for {said}"
            shown = photo(where.get(p.name, ""), alt, caption, "right" if right else "wrong")
            found += [shown] if shown else []
    return found


def confusion_picture(result: Result) -> Path | None:
    """What the evaluation drew, for more classes than a table can have."""
    file = result.folder / "confusion.png"
    return file if file.is_file() else None
