"""Labelled images for training and for testing: the data of all evaluations that classify."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.data.sources import open_source, take
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.contract import Context, EvaluationOptions, Given
from dinolab.evals.scores import match_classes
from dinolab.evals.splits import held_out
from dinolab.features.extract import FeatureSet, joined
from dinolab.fields import option
from dinolab.options import Columns


class TestSet(NamedTuple):
    """Test images, with features of those that can be read."""

    source: Source
    features: FeatureSet


class Sides(NamedTuple):
    """Training images with features of those that can be read, and one or several sets of test images."""

    train: Source
    train_features: FeatureSet
    tests: list[TestSet]
    split: str  # where the test images come from

    @property
    def test_features(self) -> FeatureSet:
        """The features of all test sets, one set after the other. Their labels are not comparable where there are several."""
        return joined([test.features for test in self.tests])


class Split(NamedTuple):
    """Training and test images of one source, or as they were given."""

    train: Source
    tests: list[Source]
    origin: str  # "given", or how many are held out and where that is kept
    positions: tuple[Tensor, Tensor] | None  # of both in the one source, int64; None if test images were given


class LabelledImages:
    """Training images with labels, and test images; without test images, a fifth of each class is held out."""

    @dataclass
    class Options(Columns, EvaluationOptions):
        """Options that name labelled images."""

        train: str = option("", "labelled training images, as data.path takes them", required=True)
        test: list[str] = option(
            [],
            "test images, or several sets (empty: a fifth of each class, kept in a file beside train)",
        )
        seeds: int = option(1, "repeat all that is random with so many seeds, and give mean and deviation", 1, 1000)

    def __init__(self, sources: list[Source], context: Context) -> None:
        self.sources, self.context = sources, context
        self.known: dict[tuple[Any, ...], list[FeatureSet]] = {}

    @staticmethod
    def open(options: "LabelledImages.Options", given: Given, context: Context) -> "LabelledImages":
        """Raises UserError: training images without labels, or no class that both have."""
        sources = open_train_and_test(options, given)
        train, *tests = sources
        for test in tests:
            if test.classes and not {*train.classes} & {*test.classes}:
                match_classes(train, test)  # which refuses: better now than after hours of training
        return LabelledImages(sources, context)

    @property
    def is_split(self) -> bool:
        """Whether the test images are drawn from the training images."""
        return len(self.sources) == 1

    def split(self, seed: int) -> Split:
        """Training and test images as they were given, or by the split that is kept for this seed."""
        if not self.is_split:
            return Split(self.sources[0], self.sources[1:], "given", None)
        held, origin = held_out(self.sources[0], seed, self.context.out, self.context.progress)
        train, test = np.flatnonzero(~held), np.flatnonzero(held)
        positions = torch.from_numpy(train), torch.from_numpy(test)
        return Split(take(self.sources[0], train), [take(self.sources[0], test)], origin, positions)

    def features(self, encoder: Any, blocks: int = 1, patches: bool = False) -> list[FeatureSet]:
        """Features of each source; computed once, whatever the number of seeds."""
        key = encoder, blocks, patches
        if key not in self.known:
            self.known[key] = [self.context.extract(encoder, source, blocks, patches) for source in self.sources]
        return self.known[key]

    def sides(self, encoder: Any, seed: int, blocks: int = 1, patches: bool = False) -> Sides:
        """Training and test images with their features: class tokens of the last `blocks` blocks, and the patches' mean."""
        split, found = self.split(seed), self.features(encoder, blocks, patches)
        train, *tests = found if split.positions is None else (found[0].part(index) for index in split.positions)
        return Sides(split.train, train, [*map(TestSet, split.tests, tests)], split.origin)

    def train_features(self, encoder: Any, split: Split) -> FeatureSet:
        """Class tokens of the training images alone."""
        if self.is_split:
            return self.context.extract(encoder, split.train)
        key = (encoder,)
        if key not in self.known:
            self.known[key] = [self.context.extract(encoder, split.train)]
        return self.known[key][0]


def named_and_opened(**sources: Any) -> tuple[dict[str, Any], Given]:
    """Names for the options `train` and `test`, and the sources that a caller in Python has opened already, by option."""
    given: dict[str, list[Source]] = {}
    named: dict[str, Any] = {}
    for key, value in sources.items():
        several = list(value) if isinstance(value, list | tuple) else [value]
        if several and all(isinstance(one, Source) for one in several):
            given[key] = several
            named[key] = [one.name for one in several] if len(several) > 1 else several[0].name
        else:
            named[key] = value
    return named, given


def open_train_and_test(options: LabelledImages.Options, given: Given) -> list[Source]:
    """Labelled training images, and each set of test images, which may have no labels; or the training images alone."""
    found = given["train"] if "train" in given else [open_source(options.train, options, None, True, "train")]
    if found[0].labels is None:
        raise UserError(f"{found[0].name} has no labels, and the training images need some")
    if "test" in given:
        return [*found, *given["test"]]
    return [*found, *(open_source(test, options, option="test") for test in dict.fromkeys(options.test))]


def sources_in_words(train: Source, test: Source | None) -> dict[str, Any]:
    """The options that name these sources and say how they were read, for a result."""
    read_by = (test.read_by if test else {}) | train.read_by
    return {"train": train.name, "test": test.name if test else None, **read_by}


def describe(sides: Sides, number: int = 0) -> dict[str, Any]:
    """The facts of the training images and of the test set of this number that a result keeps."""
    test = sides.tests[number]
    return {
        **sources_in_words(sides.train, test.source),
        "split": sides.split,
        "train_images": len(sides.train_features),
        "test_images": len(test.features),
        "unreadable": {
            "train": len(sides.train) - len(sides.train_features),
            "test": len(test.source) - len(test.features),
        },
        "classes": sides.train.classes,
    }
