"""A toy method in one file: no teacher, no prototypes. It learns to predict each image's mean colour and, by its label, its class.

It has everything that a method may have: options, needs, a schedule, a part that is frozen, a queue that resumes and is the same on
all processes, something done once an epoch, figures with a panel and an alarm, and a check of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.data.types import Needs, Views
from dinolab.errors import UserError
from dinolab.fields import duration, option, section
from dinolab.methods.base import Alarm, Logs, Method, StepValues, own_options
from dinolab.methods.schedules import Freeze, Phase, Schedule, ramp
from dinolab.models.encoder import normalise
from dinolab.options import Config
from dinolab.panels import HEALTH, LOSS, Panel
from dinolab.parallel import gather_over_ranks


@dataclass
class Colours:
    weight: float = option(1.0, "weight of the colours' loss at the end", 0, 10)
    warmup: str = duration("4 steps", "how long that weight rises from zero")
    freeze: str = duration("1 steps", "how long the layer on top is held fixed")
    queue: int = option(24, "features that the queue holds", 1, 1000)


@dataclass
class Options:
    colours: Colours = section(Colours, "what the toy predicts")


def mean_colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image.mean((0, 1)).astype(np.float32) / 255


class Toy(Method):
    TITLE = "Toy"
    Options: ClassVar[type] = Options
    PANELS = (
        Panel(LOSS, "loss of the toy", {"loss": "sum", "colour": "colour", "label": "label"}),
        Panel(HEALTH, "length of the queue", {"queue_length": "features"}),
    )
    ALARMS = (Alarm("no colours", lambda line: line["colour"] > 100, "the colours are wrong by far. Remedy: none."),)

    queue: Tensor  # (size, D), features of earlier images
    counts: Tensor  # int64 (2,): features that have entered the queue, epochs that have begun

    def __init__(self, backbone: nn.Module, cfg: Config):
        options: Any = own_options(cfg, Options)
        dim = cast(int, backbone.dim)
        super().__init__({"backbone": backbone, "predict": nn.Linear(dim, 3), "classify": nn.Linear(dim, 2)})
        self.register_buffer("queue", torch.zeros(options.colours.queue, dim))
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))

    @classmethod
    def check(cls, cfg: Config) -> None:
        if own_options(cfg, Options).colours.queue < cfg.optim.batch_size:
            raise UserError("colours.queue: must hold a batch")

    @classmethod
    def needs(cls, cfg: Config) -> Needs:
        return Needs(labels=True, extra=mean_colour)

    @classmethod
    def schedules(cls, cfg: Config, phase: Phase) -> dict[str, Schedule]:
        colours = own_options(cfg, Options).colours
        warmup = phase.steps(colours.warmup, "colours.warmup")
        return {"colour_weight": lambda step: ramp(0, colours.weight, step, warmup)}

    @classmethod
    def frozen(cls, cfg: Config, phase: Phase) -> dict[str, Freeze]:
        return {"predict": Freeze(phase.steps(own_options(cfg, Options).colours.freeze, "colours.freeze"))}

    def begin_epoch(self, epoch: int) -> None:
        self.counts[1] += 1

    def loss(self, views: Views, targets: None, s: StepValues) -> tuple[Tensor, Logs]:
        assert views.extra is not None and views.labels is not None
        crops = normalise(views.global_crops.flatten(0, 1), self.product.pixels)
        cls = self.student["backbone"]([crops])[0].cls.unflatten(0, (2, -1))  # (2, B, D)
        colour = (self.student["predict"](cls.mean(0)) - views.extra.to(cls.dtype)).square().mean()
        label = F.cross_entropy(self.student["classify"](cls[0]), views.labels)
        self.enqueue(cls[0].detach())
        loss = label + s["colour_weight"] * colour
        return loss, {"loss": loss.detach(), "colour": colour.detach(), "label": label.detach()}

    @torch.no_grad()
    def enqueue(self, features: Tensor) -> None:
        everyone = gather_over_ranks(features)
        self.queue = torch.cat([everyone.to(self.queue.dtype), self.queue])[: len(self.queue)]
        self.counts[0] += len(everyone)

    def figures(self, targets: list[None], parts: Mapping[str, float]) -> dict[str, float]:
        return {"queue_length": float(self.counts[0]), "epochs_begun": float(self.counts[1])}


TOY = Toy
