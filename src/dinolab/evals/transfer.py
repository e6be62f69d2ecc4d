"""Transfer: logistic regression on frozen features for each of many data sets, and the mean over them (DINOv2, table 8).

M test images, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.errors import UserError, some
from dinolab.evals.bootstrap import resampled
from dinolab.evals.contract import Context, Evaluation, EvaluationOptions, Figure, Finds, Given, Task
from dinolab.evals.heads import Input
from dinolab.evals.labelled_images import LabelledImages
from dinolab.evals.logreg import LogisticRegression
from dinolab.evals.result import Measured, Result
from dinolab.evals.roots import count_images, opened, plain
from dinolab.evals.scores import match_classes, most_likely
from dinolab.evals.transfer_sets import ACCURACY, KNOWN, MAP, PER_CLASS, Found, Sides, find_sets
from dinolab.features.options import TOKENS
from dinolab.fields import option
from dinolab.options import Columns

Share = Callable[[np.ndarray], float]  # the figure of the test images at some rows, int (m,)
MEAN = Figure("mean", "mean over the sets")
FIGURES = (MEAN, Figure(ACCURACY, "accuracy"), Figure(PER_CLASS, "mean per class"), Figure(MAP, "mAP, 11 points"))


class Sets:
    """The data sets under a root."""

    @dataclass
    class Options(Columns, EvaluationOptions):
        """Options that name data sets."""

        root: str = option(
            "", "folder of the data sets: each a folder with train/ and test/, or as published", required=True
        )
        only: list[str] = option([], "names of the sets to use (empty: all that are there)")

    def __init__(self, sets: dict[str, tuple[Found, Sides]]) -> None:
        self.sets = sets
        self.sources = [source for _, sides in sets.values() for source in (sides.train, sides.test)]

    @staticmethod
    def open(options: "Sets.Options", given: Given, context: Context) -> "Sets":
        """Raises UserError where a set that is named is missing, or there is none at all."""
        root = opened(options.root)
        found, missing = find_sets(root)
        by_name = {plain(one.title): one for one in found}
        wanted = [plain(name) for name in options.only] or list(by_name)
        for name, asked in zip(options.only, wanted):
            if asked not in by_name:
                where = next((text for known, text in zip(KNOWN, map(place, KNOWN)) if plain(known.title) == asked), "")
                there = some([one.title for one in found], 20, ", ") or "none"
                raise UserError(f"only={name}: not under {root}; there: {there}{where and f'. {where}'}")
        if not wanted:
            raise UserError(f"root={root}: none of the data sets is here; for example {missing[0]}")
        return Sets({by_name[name].title: (by_name[name], by_name[name].open(root, options)) for name in wanted})


def place(known: Any) -> str:
    return f"{known.title}: {known.folders[-1]}; from {known.where}"


class Tested(NamedTuple):
    """The figure of one set as a function of its test images."""

    metric: str
    share: Share
    images: int

    @property
    def value(self) -> float:
        return self.share(np.arange(self.images))


class Transfer(Evaluation):
    title = "transfer"
    about = (
        "Logistic regression on frozen features for each data set under a folder, such as the twelve of DINOv2's table."
    )
    needs = Sets
    FIGURES = FIGURES
    suites = ("dinov2",)

    @dataclass
    class Options(Sets.Options):
        tokens: str = option("cls", "features: class token, mean of the patches, or both", choices=TOKENS)
        blocks: int = option(1, "number of last blocks whose class tokens are used", 1, 1000)
        solver: str = option(
            "torch", "what fits it, as in the evaluation of that name", choices=("torch", "scikit-learn")
        )

    def find(self, root: Path) -> Finds:
        found, missing = find_sets(root)
        if not found:
            return Finds([], missing)
        return Finds([Task({"root": str(root)}, count_images(*(one.folder for one in found)))], missing)

    def run(self, encoder: Any, data: Sets, options: Any, context: Context) -> Result:
        tested: dict[str, Tested] = {}
        for name, (found, sides) in data.sets.items():
            test = several_labels if sides.several else one_label
            tested[name] = test(encoder, found, sides, options, context)
        names = ("tokens", "blocks", "solver", "only")
        images = [sum(len(getattr(sides, side)) for _, sides in data.sets.values()) for side in ("train", "test")]
        facts = {
            "train": options.root, "test": options.root, "train_images": images[0], "test_images": images[1],
            "sets": list(tested),
        }  # fmt: skip
        result = context.result({name: getattr(options, name) for name in names}, data=facts, figures={})
        shares = [one.share for one in tested.values()]

        def mean(*rows: np.ndarray) -> float:
            return float(np.mean([share(some_rows) for share, some_rows in zip(shares, rows)]))

        numbers = [one.images for one in tested.values()]
        value = float(np.mean([one.value for one in tested.values()]))
        result.figures[MEAN.key] = Measured(value, resampled(mean, *numbers, seed=options.seed))
        result.parts = {name: {one.metric: one.value} for name, one in tested.items()}
        return result


def one_label(encoder: Any, found: Found, sides: Sides, options: Any, context: Context) -> Tested:
    """The share of right predictions, or its mean over classes."""
    data = LabelledImages([sides.train, sides.test], context)
    at, predicted = LogisticRegression().classify(encoder, data, options, context, options.seed)
    truth = match_classes(sides.train, sides.test)[at.test_features.labels].numpy()
    right = most_likely(predicted.probabilities).numpy() == truth
    share = partial(mean_per_class, right, truth) if found.metric == PER_CLASS else partial(mean_of, right)
    return Tested(found.metric, share, len(right))


def several_labels(encoder: Any, found: Found, sides: Sides, options: Any, context: Context) -> Tested:
    """The mean over classes of the average precision; a regression for each class, of its images against the others."""
    from dinolab.evals.logreg_fit import logreg  # here: scikit-learn takes a second to import

    assert sides.several
    both = [context.extract(encoder, s, options.blocks, options.tokens != "cls") for s in (sides.train, sides.test)]
    taken = Input(len(both[0].blocks), options.tokens)
    train, test = (taken.rows(features) for features in both)
    labels, truth = (side[features.kept.numpy()] for side, features in zip(sides.several, both))
    scores = np.zeros(truth.shape)
    for number in range(labels.shape[1]):
        used = torch.from_numpy(labels[:, number] != 0)
        there = torch.from_numpy((labels[:, number] > 0).astype(np.int64))
        if there[used].unique().numel() < 2:
            raise UserError(
                f"{sides.train.name}: class {sides.train.classes[number]} needs images with it and without it"
            )
        layer, _ = logreg(
            train[used], there[used], 2, options.seed, context.progress, context.device, options.solver
        )  # fmt: skip
        with torch.inference_mode():
            logits: Tensor = layer(test.to(context.device)).cpu()
        scores[:, number] = (logits[:, 1] - logits[:, 0]).numpy()
    return Tested(found.metric, partial(mean_average_precision, scores, truth), len(truth))


def mean_of(right: np.ndarray, rows: np.ndarray) -> float:
    return float(right[rows].mean())


def mean_per_class(right: np.ndarray, truth: np.ndarray, rows: np.ndarray) -> float:
    """The mean over the classes that occur of the share of right predictions, from bool (M,) and int (M,)."""
    images = np.bincount(truth[rows])
    return float((np.bincount(truth[rows], right[rows])[images > 0] / images[images > 0]).mean())


def average_precision(scores: np.ndarray, there: np.ndarray) -> float:
    """Pascal VOC 2007's average precision: the mean, at recalls of 0, 0.1, ..., 1, of the best precision at that recall or more.

    Args:
        scores: float (M,).
        there: bool (M,); at least one is True.
    """
    hits = there[np.argsort(-scores, kind="stable")].cumsum()
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / hits[-1]
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at each rank, the best precision at this recall or more
    return float(best[np.searchsorted(recall, np.arange(11) / 10 - 1e-12)].mean())


def mean_average_precision(scores: np.ndarray, truth: np.ndarray, rows: np.ndarray) -> float:
    """The mean over the classes that occur, from float (M, C) and int (M, C) of 1, -1, and 0 for images that are left out."""
    found = []
    for scored, labels in zip(scores[rows].T, truth[rows].T):
        if (labels > 0).any():
            found.append(average_precision(scored[labels != 0], labels[labels != 0] > 0))
    return float(np.mean(found))
