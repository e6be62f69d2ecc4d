"""The base class of all methods: options, networks, targets, loss, and how the figures are read and shown.

Adding a method is one file with a subclass of `Method`, and a line in METHODS. The parts that methods with a
momentum teacher share are in momentum.py, those that methods with prototypes share in prototypes.py. A method may use both, one or
none of them.

Shapes: B images, L local crops, D width of a feature; m runs over the micro-batches of a step.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from dinolab.data.types import Needs, Source, Views
from dinolab.methods.pull import Pull
from dinolab.methods.schedules import Freeze, Phase, Schedule
from dinolab.models.backbone import Backbone
from dinolab.models.encoder import Features, normalise
from dinolab.options import Config
from dinolab.panels import LOSS, Panel

Logs = dict[str, Tensor]  # parts of the loss by name, detached; "loss" is their weighted sum
T = TypeVar("T")


class StepValues(Protocol):
    """The scheduled values of one step, by name: "lr", "weight_decay", and the method's own."""

    def __getitem__(self, name: str) -> float: ...


class Alarm(NamedTuple):
    """A trouble that lines of the log show."""

    name: str
    shown_by: Callable[[Mapping[str, float]], bool]  # given a line of the log
    remedy: str  # what it means and what to change, in words: "MEANING. Remedy: ..."

    @property
    def meaning(self) -> str:
        """What it means, without what to change."""
        return self.remedy.partition(". Remedy")[0]


class Method(nn.Module):
    """A way to train a backbone.

    `student` holds the networks that are trained, by name; one of them is "backbone". Its names are those of parameters in
    checkpoints. Buffers are part of the checkpoint too, so a queue or a memory bank that is a buffer resumes by itself; with several
    processes it must be kept equal on all of them.
    """

    TITLE: ClassVar[str] = ""  # name for people
    Options: ClassVar[
        type
    ]  # dataclass of its own options; they stand beside the shared ones in files and on the command line
    PRODUCT: ClassVar[str] = "student"  # the attribute whose backbone the run is for
    PANELS: ClassVar[tuple[Panel, ...]] = (Panel(LOSS, "loss", {"loss": "loss"}),)
    ALARMS: ClassVar[tuple[Alarm, ...]] = ()
    PREPARES: ClassVar[str] = ""  # a sentence about what `prepare` does and a forecast does not include

    student: nn.ModuleDict
    pull: Pull | None = None  # with init.pull; the training step adds it to the loss

    def __init__(self, student: dict[str, nn.Module]):
        super().__init__()
        self.student = nn.ModuleDict(student)

    @classmethod
    def make(cls, backbone: nn.Module, cfg: Config, source: Source | None) -> "Method":
        """The method of a run. Override it where networks or buffers depend on the images, such as on the number of classes.

        Args:
            source: the images of the run; None where a step is only measured.

        Raises UserError where the method cannot learn from these images.
        """
        return cls(backbone, cfg)  # type: ignore[arg-type, call-arg]

    @classmethod
    def check(cls, cfg: Config) -> None:
        """Raises UserError where options contradict each other."""

    @classmethod
    def needs(cls, cfg: Config) -> Needs:
        """Name what the loader must make of each image beside its crops."""
        return Needs()

    @classmethod
    def schedules(cls, cfg: Config, phase: Phase) -> dict[str, Schedule]:
        """The method's own scheduled values."""
        return {}

    @classmethod
    def frozen(cls, cfg: Config, phase: Phase) -> dict[str, Freeze]:
        """Parts of the student that are held fixed at the start, by a word in the names of their parameters."""
        return {}

    @classmethod
    def continue_in_next_phase(cls, cfg: Config) -> None:
        """Change, in place, the options of a later phase so that the method's schedules go on where they ended."""

    @property
    def product(self) -> Backbone:
        """The backbone that the run is for."""
        return cast(Backbone, getattr(self, self.PRODUCT)["backbone"])

    @property
    def networks(self) -> tuple[nn.ModuleDict, ...]:
        """The networks whose parameters are sharded over several processes and whose blocks may be compiled."""
        return (self.student,)

    def see_images(self, source: Source, workers: int) -> None:
        """Called before training begins or goes on, on all processes: what a method computes from all images and does not save.

        Args:
            source: the images of the run; `Views.indices` are positions in it.
            workers: processes that may load images.
        """

    def prepare(self, batches: Iterable[list[Views]]) -> None:
        """Learn from the data what is needed before the first step of a new run; `batches` are the run's first ones."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first step of each pass over the data, on all processes; not again where a run resumes within it."""

    def targets(self, batches: list[Views], s: StepValues) -> list[Any]:
        """Each micro-batch's targets, computed from all micro-batches of the step together, without gradient."""
        return [None] * len(batches)

    def loss(self, views: Views, targets: Any, s: StepValues) -> tuple[Tensor, Logs]:
        """A micro-batch's loss, which is averaged over micro-batches and processes, and its parts for the log."""
        raise NotImplementedError

    def student_features(self, views: Views) -> tuple[Features, Tensor]:
        """The student's features of the global crops, masked if there are masks, and the class tokens of all crops ((2 + L) B, D)."""
        crops = [views.global_crops, views.local_crops] if len(views.local_crops) else [views.global_crops]
        masks = [views.masks.flatten(0, 1) if views.masks is not None else None, None]
        features = self.student["backbone"]([self.pixels(x) for x in crops], masks[: len(crops)])
        return features[0], torch.cat([f.cls for f in features])

    def pixels(self, crops: Tensor) -> Tensor:
        """uint8 crops (V, B, C, S, S) as the backbone's input (V * B, C, S, S)."""
        return normalise(crops.flatten(0, 1), self.product.pixels)

    @torch.no_grad()
    def after_step(self, s: StepValues) -> None:
        """Update whatever follows the optimizer's step, such as a momentum teacher or a queue."""

    def figures(self, targets: list[Any], parts: Mapping[str, float]) -> dict[str, float]:
        """Figures for the log beside the parts of the loss; called on all processes, only when a line is written.

        Args:
            targets: the last step's targets, of this process.
            parts: parts of the last step's loss, means over micro-batches and processes.
        """
        return {}


def own_options(cfg: Config, schema: type[T]) -> T:
    """A method's own options out of a configuration, which holds them beside the shared ones."""
    return schema(**{f.name: getattr(cfg, f.name) for f in dataclasses.fields(schema)})  # type: ignore[arg-type]


def join(parts: list[Tensor], dim: int) -> Tensor:
    """The parts joined along a dimension; a single part is returned as it is, without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
