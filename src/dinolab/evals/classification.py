"""The parts that evaluations share which predict a class for each test image.

M test images, C classes.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from dinolab.evals.contenders import labels
from dinolab.evals.contract import Context, Evaluation, Figure, Finds
from dinolab.evals.heads import Trained
from dinolab.evals.labelled_images import LabelledImages, Sides, TestSet, describe
from dinolab.evals.layer import LinearLayer
from dinolab.evals.result import Json, Measured, Result
from dinolab.evals.results import Predictions
from dinolab.evals.roots import find_labelled
from dinolab.evals.scores import (
    accuracy_by_class,
    among_the_first,
    bootstrap_interval,
    find_leaks,
    match_classes,
    most_likely,
    over_seeds,
    spread,
    warn_of_leaks,
)
from dinolab.features.cache import checksum
from dinolab.files import file_name
from dinolab.models.encoder import BackboneEncoder
from dinolab.rundir import LAYER, NETWORK
from dinolab.weights.load import save_encoder

FIRST = 5  # of top-5 accuracy, which is given where there are more classes than that
ACCURACY = Figure("accuracy", "accuracy")
TOP5 = Figure("top5", "top-5 accuracy")
WITHOUT_LEAKS = Figure("without_leaks", "without leaks")  # over test images that are no training images
FURTHER = (TOP5, WITHOUT_LEAKS)  # figures beside the main one


@dataclass(frozen=True)
class Classified:
    """The predictions of a classifier for the test images, and how it was made."""

    probabilities: Tensor  # float32 (M, C)
    settings: Json  # for the result: what was set, and what was chosen
    other: dict[str, Tensor] = field(default_factory=dict)  # classes int64 (M,) predicted under other settings
    tries: dict[str, list[Tensor]] = field(default_factory=dict)  # the same, with several draws
    layer: Trained | None = None  # the linear layer that predicted; None if it was none
    encoder: Any = None  # the network that was trained with the layer; None where the encoder stayed as it was

    def rows(self, start: int, stop: int) -> "Classified":
        """The predictions for some of the test images."""
        other = {name: classes[start:stop] for name, classes in self.other.items()}
        tries = {name: [classes[start:stop] for classes in drawn] for name, drawn in self.tries.items()}
        return replace(self, probabilities=self.probabilities[start:stop], other=other, tries=tries)


class Classification(Evaluation):
    """An evaluation by the accuracy of predicted classes."""

    needs: ClassVar[Any] = LabelledImages
    Options: ClassVar[type[LabelledImages.Options]]
    FIGURES: ClassVar[tuple[Figure, ...]] = (ACCURACY, *FURTHER)
    draws: ClassVar[bool] = True  # whether predictions depend on the seed, once the test images are given

    def find(self, root: Path) -> Finds:
        return find_labelled(root)

    @abstractmethod
    def classify(
        self, encoder: Any, data: LabelledImages, options: Any, context: Context, seed: int
    ) -> tuple[Sides, Classified]:
        """Predict the classes of the images of all test sets, one set after the other. Their labels are not used."""

    def run(self, encoder: Any, data: LabelledImages, options: Any, context: Context) -> Result:
        drawn = [self.classify(encoder, data, options, context, options.seed)]
        sides = drawn[0][0]
        labelled = any(test.source.labels is not None for test in sides.tests)
        if labelled and (self.draws or data.is_split):
            seeds = range(options.seed + 1, options.seed + options.seeds)
            drawn += [self.classify(encoder, data, options, context, seed) for seed in seeds]
        folders = ["", *map(file_name, labels([test.source.name for test in sides.tests])[1:])]
        result, *tests = (
            self.judge(number, [(one, part_of(one, found, number)) for one, found in drawn], context, folder)
            for number, folder in enumerate(folders)
        )
        if context.out:
            keep_layer(drawn[0][1], encoder, sides.train.classes, context, context.out)
        encoder_name = {"name": context.encoder["name"]}
        result.tests = [replace(one, encoder=encoder_name, settings={}, environment=None) for one in tests]
        return result

    def judge(self, number: int, drawn: Sequence[tuple[Sides, Classified]], context: Context, folder: str) -> Result:
        """The result on the test set of this number, from predictions for its images with each seed.

        Args:
            folder: where its files go within `context.out`.
        """
        sides, found = drawn[0]
        test = sides.tests[number]
        predictions = as_predictions(sides, test, found.probabilities)
        leaks = find_leaks(sides.train_features, test.features)
        named = warn_of_leaks(leaks, sides.train, sides.train_features, *test)
        result = context.result(found.settings, data=describe(sides, number), leaks=named, figures={})
        if (truth := predictions.truth) is not None:
            add_figures(result, predictions, found.probabilities, [row for row, _ in leaks])
            result.other = {name: share(classes, truth) for name, classes in found.other.items()}
            result.tries = {
                name: spread([share(classes, truth) for classes in several]) for name, several in found.tries.items()
            }
            if len(drawn) > 1:
                again = (as_predictions(one, one.tests[number], other.probabilities) for one, other in drawn[1:])
                accuracies = [float((one.predicted == one.truth).mean()) for one in again]
                result.seeds = over_seeds(context.seed, [result.figures[ACCURACY.key].value, *accuracies])
        if context.out:
            out = context.out / folder
            out.mkdir(exist_ok=True)
            shown = f": {ACCURACY.text(result.main.value)}" if result.main else ""
            predictions.write(out, f"{context.encoder['name']}\n{self.title}{shown}")
        return result


def keep_layer(found: Classified, encoder: Any, classes: list[str], context: Context, out: Path) -> None:
    """Write the linear layer that predicted, and beside it the network that was trained with it, in place of earlier ones.

    A network that dinolab cannot save is left out, and so is its layer, which is of no use without it.
    """
    (out / LAYER).unlink(missing_ok=True)
    if not found.layer:
        return
    known = context.encoder
    if found.encoder is not None:
        if not isinstance(found.encoder, BackboneEncoder):
            return
        info = {**found.encoder.info, "finetuned": context.encoder["name"]}
        (out / NETWORK).mkdir(exist_ok=True)
        save_encoder(found.encoder.backbone, out / NETWORK, info)
        encoder, known = found.encoder, known | {"name": str(out / NETWORK), "info": info}
    known = known | {"weights_crc32": checksum(encoder.state_dict(), {})}
    LinearLayer(found.layer, classes, context.size, context.precision, known).save(out)


def part_of(sides: Sides, found: Classified, number: int) -> Classified:
    """The predictions for the images of the test set of this number."""
    start = sum(len(test.features) for test in sides.tests[:number])
    return found.rows(start, start + len(sides.tests[number].features))


def as_predictions(sides: Sides, test: TestSet, probabilities: Tensor) -> Predictions:
    """The most likely class of each image of a test set, and the true one where there are labels."""
    known = set(sides.train.classes)
    classes = [*sides.train.classes, *(name for name in test.source.classes if name not in known)]
    truth = None
    if test.source.labels is not None:
        truth = match_classes(sides.train, test.source)[test.features.labels].numpy()
    kept, likely = test.features.kept.numpy(), most_likely(probabilities).numpy()
    return Predictions(test.source.names(), kept, classes, likely, probabilities.amax(1).numpy(), truth)


def share(predicted: Tensor, truth: np.ndarray) -> float:
    """The share of right predictions, from int64 (M,) and (M,)."""
    return float((predicted.numpy() == truth).mean())


def add_figures(result: Result, predictions: Predictions, probabilities: Tensor, leaked: list[int]) -> None:
    """Accuracy and top-5 accuracy with intervals, accuracy by class and over the test images not among the rows `leaked`."""
    assert predictions.truth is not None
    right = predictions.predicted == predictions.truth
    result.figures[ACCURACY.key] = measured(right)
    if probabilities.shape[1] > FIRST:
        result.figures[TOP5.key] = measured(among_the_first(probabilities, predictions.truth, FIRST))
    clean = np.setdiff1d(np.arange(len(right)), leaked)
    if leaked and len(clean):
        result.figures[WITHOUT_LEAKS.key] = Measured(float(right[clean].mean()))
    result.per_class = accuracy_by_class(predictions.predicted, predictions.truth, predictions.classes)


def measured(right: np.ndarray) -> Measured:
    """The share of True, with its interval, from bool (M,)."""
    return Measured(float(right.mean()), bootstrap_interval(int(right.sum()), len(right)))
