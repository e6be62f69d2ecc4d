"""Labelled images for training and for testing: the data of all evaluations that classify."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.data.sources import open_source, take
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.contract import Context, EvaluationOptions
from dinolab.evals.scores import match_classes
from dinolab.evals.splits import held_out
from dinolab.features.extract import FeatureSet
from dinolab.options import option


class Sides(NamedTuple):
    """Training and test images, with features of those that can be read."""

    train: Source
    train_features: FeatureSet
    test: Source
    test_features: FeatureSet
    split: str  # where the test images come from


class Split(NamedTuple):
    """Training and test images of one source, or as they were given."""

    train: Source
    test: Source
    origin: str  # "given", or how many are held out and where that is kept
    positions: tuple[Tensor, Tensor] | None  # of both in the one source, int64; None if there are two


class LabelledImages:
    """Training images with labels, and test images; without test images, a fifth of each class is held out."""

    @dataclass
    class Options(EvaluationOptions):
        """Options that name labelled images."""

        train: str = option("", "labelled training images, as data.path takes them", required=True)
        test: str = option(
            "", "test images (empty: a fifth of each class of the training images, kept in a file beside them)"
        )
        seeds: int = option(
            1, "number of seeds: with several, everything random is repeated and mean and deviation are given", 1, 1000
        )

    def __init__(self, sources: list[Source], context: Context) -> None:
        self.sources, self.context = sources, context
        self.known: dict[tuple[Any, ...], list[FeatureSet]] = {}

    @staticmethod
    def open(options: "LabelledImages.Options", given: Mapping[str, Source], context: Context) -> "LabelledImages":
        """Raises UserError: training images without labels, or no class that both have."""
        sources = open_train_and_test(options.train, options.test, given)
        if len(sources) == 2 and sources[1].classes and not {*sources[0].classes} & {*sources[1].classes}:
            match_classes(*sources)  # which refuses: better now than after hours of training
        return LabelledImages(sources, context)

    @property
    def is_split(self) -> bool:
        """Whether the test images are drawn from the training images."""
        return len(self.sources) == 1

    def split(self, seed: int) -> Split:
        """Training and test images as they were given, or by the split that is kept for this seed."""
        if not self.is_split:
            return Split(self.sources[0], self.sources[1], "given", None)
        held, origin = held_out(self.sources[0], seed, self.context.out, self.context.progress)
        train, test = np.flatnonzero(~held), np.flatnonzero(held)
        positions = torch.from_numpy(train), torch.from_numpy(test)
        return Split(take(self.sources[0], train), take(self.sources[0], test), origin, positions)

    def features(self, encoder: Any, blocks: int = 1, patches: bool = False) -> list[FeatureSet]:
        """Features of each source; computed once, whatever the number of seeds."""
        key = encoder, blocks, patches
        if key not in self.known:
            self.known[key] = [self.context.extract(encoder, source, blocks, patches) for source in self.sources]
        return self.known[key]

    def sides(self, encoder: Any, seed: int, blocks: int = 1, patches: bool = False) -> Sides:
        """Training and test images with their features: class tokens of the last `blocks` blocks, and the patches' mean."""
        split, found = self.split(seed), self.features(encoder, blocks, patches)
        train, test = found if split.positions is None else (found[0].part(index) for index in split.positions)
        return Sides(split.train, train, split.test, test, split.origin)

    def train_features(self, encoder: Any, split: Split) -> FeatureSet:
        """Class tokens of the training images alone."""
        if self.is_split:
            return self.context.extract(encoder, split.train)
        key = (encoder,)
        if key not in self.known:
            self.known[key] = [self.context.extract(encoder, split.train)]
        return self.known[key][0]


def open_train_and_test(train: str, test: str, given: Mapping[str, Source]) -> list[Source]:
    """Labelled training images, and test images, which may have no labels; or the training images alone."""
    first = given.get("train") or open_source(train, need_labels=True, option="train")
    if first.labels is None:
        raise UserError(f"{first.name} has no labels, and the training images need some")
    if "test" not in given and not test:
        return [first]
    return [first, given.get("test") or open_source(test, option="test")]


def describe(sides: Sides) -> dict[str, Any]:
    """The facts of both sides that a result keeps."""
    return {
        "train": sides.train.name,
        "test": sides.test.name,
        "split": sides.split,
        "train_images": len(sides.train_features),
        "test_images": len(sides.test_features),
        "unreadable": {
            "train": len(sides.train) - len(sides.train_features),
            "test": len(sides.test) - len(sides.test_features),
        },
        "classes": sides.train.classes,
    }
