"""The parts that evaluations share which predict a class for each test image.

M test images, C classes.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from dinolab.evals.contract import Context, Evaluation, Figure
from dinolab.evals.labelled_images import LabelledImages, Sides, describe
from dinolab.evals.result import Json, Measured, Result
from dinolab.evals.results import Predictions
from dinolab.evals.scores import (
    accuracy_by_class,
    bootstrap_interval,
    find_leaks,
    match_classes,
    most_likely,
    over_seeds,
    warn_of_leaks,
)

ACCURACY = Figure("accuracy", "accuracy")
WITHOUT_LEAKS = Figure("without_leaks", "without leaks")  # over test images that are no training images


@dataclass(frozen=True)
class Classified:
    """The predictions of a classifier for the test images, and how it was made."""

    probabilities: Tensor  # float32 (M, C)
    settings: Json  # for the result: what was set, and what was chosen
    other: dict[str, Tensor] = field(default_factory=dict)  # classes int64 (M,) predicted under other settings


class Classification(Evaluation):
    """An evaluation by the accuracy of predicted classes."""

    needs = LabelledImages
    Options: ClassVar[type[LabelledImages.Options]]
    FIGURES: ClassVar[tuple[Figure, ...]] = (ACCURACY, WITHOUT_LEAKS)
    draws: ClassVar[bool] = True  # whether predictions depend on the seed, once the test images are given

    @abstractmethod
    def classify(
        self, encoder: Any, data: LabelledImages, options: Any, context: Context, seed: int
    ) -> tuple[Sides, Classified]:
        """Predict the classes of the test images. Labels of test images are not used."""

    def run(self, encoder: Any, data: LabelledImages, options: Any, context: Context) -> Result:
        sides, found = self.classify(encoder, data, options, context, options.seed)
        predictions = as_predictions(sides, found.probabilities)
        leaks = find_leaks(sides.train_features, sides.test_features)
        named = warn_of_leaks(leaks, sides.train, sides.train_features, sides.test, sides.test_features)
        result = context.result(found.settings, data=describe(sides), leaks=named, figures={})
        if predictions.truth is not None:
            add_figures(result, predictions, [row for row, _ in leaks])
            truth = predictions.truth
            result.other = {name: float((other.numpy() == truth).mean()) for name, other in found.other.items()}
            if options.seeds > 1 and (self.draws or data.is_split):
                seeds = range(options.seed + 1, options.seed + options.seeds)
                again = [self.classify(encoder, data, options, context, seed) for seed in seeds]
                others = [accuracy_of(as_predictions(sides, found.probabilities)) for sides, found in again]
                result.seeds = over_seeds(options.seed, [result.figures[ACCURACY.key].value, *others])
        if context.out:
            shown = f": {ACCURACY.text(result.main.value)}" if result.main else ""
            predictions.write(context.out, f"{context.encoder['name']}\n{self.title}{shown}")
        return result


def as_predictions(sides: Sides, probabilities: Tensor) -> Predictions:
    """The most likely class of each test image, and the true one where there are labels."""
    known = set(sides.train.classes)
    classes = [*sides.train.classes, *(name for name in sides.test.classes if name not in known)]
    truth = None
    if sides.test.labels is not None:
        truth = match_classes(sides.train, sides.test)[sides.test_features.labels].numpy()
    kept, likely = sides.test_features.kept.numpy(), most_likely(probabilities).numpy()
    return Predictions(sides.test.names(), kept, classes, likely, probabilities.amax(1).numpy(), truth)


def accuracy_of(predictions: Predictions) -> float:
    return float((predictions.predicted == predictions.truth).mean())


def add_figures(result: Result, predictions: Predictions, leaked: list[int]) -> None:
    """Accuracy with its interval, by class, and over the test images that are not among the rows `leaked`."""
    assert predictions.truth is not None
    right = predictions.predicted == predictions.truth
    interval = bootstrap_interval(int(right.sum()), len(right))
    result.figures[ACCURACY.key] = Measured(float(right.mean()), interval)
    clean = np.setdiff1d(np.arange(len(right)), leaked)
    if leaked and len(clean):
        result.figures[WITHOUT_LEAKS.key] = Measured(float(right[clean].mean()))
    result.per_class = accuracy_by_class(predictions.predicted, predictions.truth, predictions.classes)
