"""Predictions of an evaluation, image by image: confusion matrix, and images of the best and the worst classes."""

import csv
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dinolab.data.sources import open_source
from dinolab.evals.scores import count_confusions
from dinolab.options import COLUMNS, Columns
from dinolab.report.evaluated import Evaluated
from dinolab.report.pictures import Grid, Picture, photo

CLASSES = 3  # best classes with images, and worst
EXAMPLES = 4  # right predictions shown of each class, and wrong ones


class Prediction(NamedTuple):
    name: str
    label: str
    predicted: str
    probability: float


class Matrix(NamedTuple):
    classes: list[str]
    counts: list[list[int]]  # true classes down, predicted across
    shares: list[list[float]]  # of each row


def read_predictions(evaluated: Evaluated, problems: list[str]) -> list[Prediction]:
    """Empty without a predictions.csv that has labels; one that cannot be read adds a sentence to `problems`."""
    file = evaluated.predictions
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
    positions = {name: n for n, name in enumerate(classes)} | {"": -1}
    predicted = np.array([positions[p.predicted] for p in predictions])
    counts = count_confusions(predicted, np.array([positions[p.label] for p in predictions]), len(classes))
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    return Matrix(classes, counts.tolist(), shares.tolist())


def class_examples(evaluated: Evaluated, predictions: Sequence[Prediction]) -> list[Grid]:
    """Images of the best and the worst classes that were predicted right and wrong.

    Raises:
        UserError: the test images are not at hand.
    """
    per_class = evaluated.result.per_class
    order = sorted(per_class, key=lambda name: per_class[name]["accuracy"])
    few = min(CLASSES, len(order) // 2)
    if not few or not predictions:
        return []
    where = test_images(evaluated)
    note = "The most probable predictions first: right ones, then wrong ones with the class that was predicted."
    grids = []
    for what, name in [*(("Best", name) for name in order[-few:][::-1]), *(("Worst", name) for name in order[:few])]:
        found = per_class[name]
        row = examples([p for p in predictions if p.label == name], where)
        title = f"{what}: {name}, {100 * found['accuracy']:.1f}% of {found['images']:,}"
        grids.append(Grid(title, note, [row], flows=True))
    return grids


def test_images(evaluated: Evaluated) -> dict[str, str]:
    """Path of each test image by its name in predictions.csv; where the train images were split, of all of them."""
    data = evaluated.result.data
    part = "test" if data.get("split") == "given" else "train"
    columns = Columns(**{name: str(data[name]) for name in COLUMNS if name in data})
    source = open_source(str(data.get(part)), columns, option=f"the {part} images of {evaluated.folder}")
    return dict(zip(source.names(), source.paths))


def examples(predictions: Sequence[Prediction], where: dict[str, str]) -> list[Picture]:
    found: list[Picture] = []
    for right in (True, False):
        some = sorted((p for p in predictions if (p.label == p.predicted) == right), key=lambda p: -p.probability)
        for p in some[:EXAMPLES]:
            predicted = p.predicted or "nothing"
            caption = f"{'✓' if right else '✗'} {predicted} {100 * p.probability:.0f}%"
            alt = f"{os.path.basename(p.name)}: a {p.label}, predicted as {predicted}"
            shown = photo(where.get(p.name, ""), alt, caption, "right" if right else "wrong")
            found += [shown] if shown else []
    return found
