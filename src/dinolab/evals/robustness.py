"""Robustness: a linear layer learned on clean images is asked about corrupted ones and about other test sets.

The layer is the one of the evaluation that `head` names; nothing is trained on corrupted images. Corruptions are made on the fly
(robustness_corruptions.py); further sets are ImageNet's (robustness_sets.py, DINOv2, arXiv 2304.07193, tables 4 and 6).

M test images.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.sources import subset
from dinolab.data.types import Source
from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.evals.bootstrap import resampled
from dinolab.evals.classification import Classified
from dinolab.evals.contract import Context, Evaluation, Figure, Finds, Given, Task
from dinolab.evals.heads import Trained
from dinolab.evals.labelled_images import LabelledImages, Sides, describe
from dinolab.evals.linear import LinearHeads
from dinolab.evals.logreg import LogisticRegression
from dinolab.evals.result import Json, Measured, Result
from dinolab.evals.robustness_corruptions import CORRUPTIONS, STRENGTHS, Corruption
from dinolab.evals.robustness_sets import (
    Other,
    find_others,
    mean_corruption_error,
    numbers_of,
    open_other,
    right_among,
    right_by_real,
)
from dinolab.evals.roots import count_images, find_labelled
from dinolab.evals.scores import find_leaks, match_classes, most_likely, over_seeds, warn_of_leaks
from dinolab.features.extract import FeatureSet
from dinolab.features.options import TOKENS
from dinolab.features.views import View
from dinolab.fields import option
from dinolab.plotting import new_figure, save
from dinolab.progress import track
from dinolab.rundir import PICTURES

CORRUPTED = Figure("corrupted", "accuracy under corruption")
CLEAN = Figure("accuracy", "accuracy")
LOSS = Figure("loss", "relative loss", higher_is_better=False)
MCE = Figure("mce", "mean corruption error", higher_is_better=False)
HEADS: dict[str, Any] = {"logreg": LogisticRegression(), "linear": LinearHeads()}


def check_names(names: Sequence[str], option: str) -> None:
    """Raises UserError for a corruption that does not exist."""
    for name in names:
        if name not in CORRUPTIONS:
            raise UserError(f"{option}={name}: there is no such corruption, only {', '.join(CORRUPTIONS)}")


class Shifted:
    """Labelled training and test images, and further test sets."""

    @dataclass
    class Options(LabelledImages.Options):
        sets: list[str] = option([], "other test sets: ImageNet-A, -R, -Sketch, -V2, -C, or ReaL's real.json")

    def __init__(self, labelled: LabelledImages, others: list[Other]) -> None:
        self.labelled, self.others = labelled, others
        self.sources = [*labelled.sources, *(source for other in others for source in other.sources.values())]

    @staticmethod
    def open(options: Any, given: Given, context: Context) -> "Shifted":
        """Raises UserError: several sets of test images, test images without labels, an unknown layout."""
        labelled = LabelledImages.open(options, given, context)
        if len(labelled.sources) > 2:
            raise UserError("test: name one set of test images, which are corrupted; further sets are named by sets=")
        if labelled.sources[-1].labels is None:
            raise UserError(f"{labelled.sources[-1].name} has no labels, and without them there is no accuracy")
        return Shifted(labelled, [open_other(path, options) for path in dict.fromkeys(options.sets)])


class Robustness(Evaluation):
    title = "robustness"
    about = "A linear layer learned on clean images predicts corrupted ones, and the images of other test sets."
    needs = Shifted
    FIGURES = (CORRUPTED, CLEAN, LOSS, MCE)
    suites = ("dinov2",)

    @dataclass
    class Options(Shifted.Options):
        solver: ClassVar[str] = "torch"  # of logreg
        head: str = option("logreg", "evaluation whose layer predicts", choices=tuple(HEADS))
        corruptions: list[str] = option([], "corruptions to make, such as fog (empty: all)", check=check_names)
        strengths: list[int] = option([], "strengths of each corruption, of 1 to 5 (empty: all)", 1, STRENGTHS)
        tokens: str = option("cls", "of logreg: class token, mean of the patches, or both", choices=TOKENS)
        blocks: int = option(1, "of logreg: number of last blocks whose class tokens are used", 1, 1000)
        limit: int = option(0, "corrupt no more than so many test images (0: all)", 0)

    def find(self, root: Path) -> Finds:
        labelled, (sets, missing) = find_labelled(root), find_others(root)
        tasks = [
            Task(task.options | {"sets": sets}, task.images + self.passes(task) + count_images(*map(Path, sets)))
            for task in labelled.tasks
        ]
        return Finds(tasks, [*labelled.missing, *missing])

    @staticmethod
    def passes(task: Task) -> int:
        """How many corrupted images pass through the encoder."""
        return STRENGTHS * len(CORRUPTIONS) * count_images(*map(Path, task.options["test"]))

    def run(self, encoder: Any, data: Shifted, options: Any, context: Context) -> Result:
        first, *rest = (
            self.measure(encoder, data, options, context, seed)
            for seed in range(options.seed, options.seed + options.seeds)
        )
        if rest:
            values = [one.figures[self.main.key].value for one in (first, *rest)]
            first.seeds = over_seeds(options.seed, values)
        return first

    def measure(self, encoder: Any, data: Shifted, options: Any, context: Context, seed: int) -> Result:
        """All figures with one seed."""
        sides, found = HEADS[options.head].classify(encoder, data.labelled, options, context, seed)
        assert found.layer is not None
        asked = Asked(encoder, found.layer, sides, context)
        leaks = find_leaks(sides.train_features, sides.test_features)
        named = warn_of_leaks(leaks, sides.train, sides.train_features, *sides.tests[0])
        settings = settings_of(options, found)
        result = context.result(settings, data=describe(sides), leaks=named, figures={})
        test = subset(sides.tests[0].source, options.limit or len(sides.tests[0].source), seed)
        add_corrupted(result, asked, test, options, seed)
        for other in data.others:
            add_other(result, asked, other, found)
        if context.out and seed == options.seed:
            draw_corruptions(test, context, options, context.out / PICTURES / "corruptions.png")
        return result


def settings_of(options: Any, found: Classified) -> Json:
    names = ("head", "corruptions", "strengths", "limit", "sets")
    return {**{name: getattr(options, name) for name in names}, **found.settings}


def chosen(options: Any) -> tuple[list[str], list[int]]:
    """The corruptions to make and their strengths."""
    names = list(dict.fromkeys(options.corruptions)) or list(CORRUPTIONS)
    return names, sorted({*options.strengths}) or [*range(1, STRENGTHS + 1)]


@dataclass(frozen=True)
class Asked:
    """A trained layer that is asked for the classes of images."""

    encoder: Any
    layer: Trained
    sides: Sides
    context: Context

    def features(self, source: Source, change: Corruption | None = None) -> FeatureSet:
        blocks, tokens = self.layer.taken
        view = View(self.context.size, distortion=change) if change else None
        return self.context.extract(self.encoder, source, blocks, tokens != "cls", view)

    def right(self, source: Source, change: Corruption | None = None) -> np.ndarray:
        """Whether the class of each test image is predicted, bool (M,)."""
        features = self.features(source, change)
        truth = match_classes(self.sides.train, source)[features.labels]
        return (most_likely(self.layer.probabilities(features)) == truth).numpy()


def add_corrupted(result: Result, asked: Asked, test: Source, options: Any, seed: int) -> None:
    """Accuracy of the test images as they are and corrupted; a part for each corruption."""
    clean = asked.right(test)
    names, strengths = chosen(options)
    title, several = "corruptions", len(names) * len(strengths)
    tries = track([(name, s) for name in names for s in strengths], title, several, asked.context.progress)
    right = np.array([asked.right(test, Corruption(name, strength, seed)) for name, strength in tries])
    right = right.reshape(len(names), len(strengths), -1)
    each = right.mean((0, 1))  # of every image, the share of its corrupted views that are predicted

    def lost(rows: np.ndarray) -> float:
        return float(1 - each[rows].mean() / clean[rows].mean()) if clean[rows].any() else 0.0

    everything = np.arange(len(clean))
    shares: Mapping[str, Any] = {
        CORRUPTED.key: lambda rows: float(each[rows].mean()),
        CLEAN.key: lambda rows: float(clean[rows].mean()),
        LOSS.key: lost,
    }
    for key, share in shares.items():
        result.figures[key] = Measured(share(everything), resampled(share, len(clean), seed=seed))
    for name, by_strength in zip(names, right.mean(2).tolist()):
        by_name = {f"strength {strength}": value for strength, value in zip(strengths, by_strength)}
        result.parts[name] = {CLEAN.key: float(np.mean(by_strength)), **by_name}
    result.data["test_images"] = len(clean)  # no more than `limit`


def add_other(result: Result, asked: Asked, other: Other, found: Classified) -> None:
    """Accuracy on a further test set, as a part; of ImageNet-C also the mean corruption error."""
    short = Path(other.name).name
    if other.right is not None:
        test, features = asked.sides.tests[0]
        names = test.names()
        predicted = most_likely(found.probabilities).numpy()
        right = right_by_real(predicted, [names[n] for n in features.kept], other.right, other.name)
        result.parts[short] = {CLEAN.key: float(right.mean())}
        return
    errors: dict[str, list[float]] = {}
    accuracies = []
    for part, source in other.sources.items():
        features = asked.features(source)
        numbers = numbers_of(source.classes, asked.sides.train.classes, other.name)
        right = right_among(asked.layer.probabilities(features), numbers[features.labels.numpy()])
        accuracies.append(float(right.mean()))
        if part:
            errors.setdefault(part.split("/")[0], []).append(1 - accuracies[-1])
    result.parts[short] = {CLEAN.key: float(np.mean(accuracies))}
    for name, several in errors.items():
        result.parts[f"{short}/{name}"] = {CLEAN.key: 1 - float(np.mean(several))}
    with suppress(KeyError):  # of a set without corruptions, or without all of them
        result.figures[MCE.key] = Measured(mean_corruption_error(errors))


def draw_corruptions(test: Source, context: Context, options: Any, out: Path) -> None:
    """The first readable test image under all corruptions that were made, a row for each and a column for each strength."""
    view = None
    for path in test.paths:
        try:
            view = eval_view(read_image(path), context.size)
            break
        except BrokenImage:
            continue
    if view is None:
        return
    names, strengths = chosen(options)
    columns = [0, *strengths]
    figure = new_figure(1.1 * len(columns) + 1, 1.12 * len(names) + 0.3)
    axes = figure.subplots(len(names), len(columns), squeeze=False)
    for place, strength in zip(axes[0], columns):
        place.set_title(f"strength {strength}" if strength else "clean", fontsize=8)
    for row, name in zip(axes, names):
        for place, strength in zip(row, columns):
            shown = Corruption(name, strength, context.seed)(view, b"") if strength else view
            place.imshow(shown.transpose(1, 2, 0))
            place.set(xticks=[], yticks=[])
        row[0].set_ylabel(name.replace("_", " "), fontsize=8)
    out.parent.mkdir(exist_ok=True)
    save(figure, out)
