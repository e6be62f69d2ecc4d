"""The base class of all evaluations: options, the data that is needed, figures, and `run`.

A new evaluation is one file with a subclass of `Evaluation`, and a line in `EVALS`. A new kind of data is one file with a class
like `labelled_images.LabelledImages`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from dinolab.data.types import Source
from dinolab.evals.result import Json, Result
from dinolab.features.inputs import Extraction
from dinolab.features.options import FeatureOptions
from dinolab.fields import option

SUITES = ("dino", "dinov2")  # the papers whose evaluations `eval all suite=` can run


@dataclass(frozen=True)
class Figure:
    """How one figure of an evaluation is shown and compared."""

    key: str  # in Result.figures
    title: str  # for people: "accuracy"
    unit: str = "%"  # a share from 0 to 1 has the unit %, and is shown times 100
    higher_is_better: bool = True
    published: str = (
        ""  # tables and columns of published figures that it belongs beside: "imagenet.linear_top1", several with
    )
    # spaces; "retrieval.roxford_m@roxford5k" only where the Result's data["test"] is roxford5k

    @property
    def scale(self) -> float:
        """The factor between a value in a Result and the number that is shown."""
        return 100.0 if self.unit == "%" else 1.0

    def number(self, value: float) -> str:
        """The value without its unit: 0.7684 of unit % is 76.8, with one decimal; other units have three digits."""
        return f"{self.scale * value:.1f}" if self.unit == "%" else f"{value:.3g}"

    def text(self, value: float) -> str:
        """The value with its unit: 76.8%."""
        return f"{self.number(value)}{self.unit}" if self.unit == "%" else f"{self.number(value)} {self.unit}".strip()


@dataclass
class EvaluationOptions(FeatureOptions):
    """Options that all evaluations have."""

    out: str = option(
        "",
        "folder for the results (empty: RUN/eval/NAME, or runs/eval/ENCODER/NAME)",
    )
    seed: int = option(0, "seed of every random draw: of splits, folds and initial weights", 0, 1 << 30)


@dataclass(frozen=True)
class Context(Extraction):
    """How an evaluation is run: on which device, in which precision, where its files go."""

    evaluation: str  # its name in EVALS
    encoder: Json  # name, dim, patch_size, info of the encoder
    out: Path | None  # folder for files beside result.json; None writes nothing
    seed: int
    environment: Json | None

    def result(self, settings: Json, **facts: Any) -> Result:
        """A Result with what the context knows; `facts` are the other fields of Result."""
        settings = {"size": self.size, "precision": self.precision, **settings}
        return Result(
            self.evaluation, self.encoder, settings=settings, seed=self.seed, environment=self.environment, **facts
        )


Given = Mapping[str, list[Source]]  # sources that are already open, by the name of the option whose place they take


class Data(Protocol):
    """Opened data of an evaluation."""

    sources: list[Source]  # all images that the result depends on


class DataKind(Protocol):
    """A kind of data that evaluations need: a class with the options that name it, and a way to open it."""

    Options: ClassVar[type[EvaluationOptions]]

    @staticmethod
    def open(options: Any, given: Given, context: Context) -> Data:
        """Open the data. Raises UserError where something is missing.

        Args:
            options: an instance of an evaluation's Options.
            given: opened sources in place of those that the options name.
        """


class Task(NamedTuple):
    """Something that an evaluation can be run on, found under a root folder."""

    options: dict[str, Any]  # options of the evaluation that name what was found
    images: int  # that pass through the encoder, roughly: to forecast the time
    name: str = ""  # of the data, where one evaluation finds several tasks


class Finds(NamedTuple):
    """What an evaluation finds under a root folder."""

    tasks: list[Task]
    missing: list[
        str
    ]  # one entry for each data set that is not there: its name, its layout, and where people usually get it


class Evaluation(ABC):
    """One way to measure how good an encoder is."""

    title: ClassVar[str]  # for people, a few words
    about: ClassVar[str]  # a sentence for --help
    earlier: ClassVar[str] = ""  # the name that results of version 1 carry
    needs: ClassVar[Any]  # the kind of data: a class like DataKind
    Options: ClassVar[type[EvaluationOptions]]  # a subclass of needs.Options
    FIGURES: ClassVar[tuple[Figure, ...]]  # encoders are compared by the first
    trains_encoder: ClassVar[bool] = (
        False  # whether the encoder's weights are trained, so that its result is that of another network
    )
    compared: ClassVar[bool] = False  # whether `eval all` runs it if no evaluations are named
    runs_first: ClassVar[bool] = (
        False  # whether `eval all` begins with it: its features serve for the other evaluations
    )
    suites: ClassVar[tuple[str, ...]] = ()  # the papers, of contract.SUITES, whose tables it belongs to

    @property
    def main(self) -> Figure:
        """The figure by which encoders are compared."""
        return self.FIGURES[0]

    def check(self, encoder: Any, options: Any) -> None:  # noqa: B027  # most evaluations take any encoder
        """Raises UserError for an encoder or options that the evaluation cannot work with, before any data is opened."""

    def find(self, root: Path) -> Finds:
        """What of the evaluation's data lies under a root folder, for `eval all suite=`; it only looks at names of files."""
        return Finds([], [])

    @abstractmethod
    def run(self, encoder: Any, data: Any, options: Any, context: Context) -> Result:
        """Evaluate the encoder; files beside result.json, such as predictions, are written to `context.out`.

        Args:
            encoder: a network: images uint8 (B, 3, H, W) -> Features.
            data: what `needs.open` gives.
            options: an instance of `Options`.
        """
