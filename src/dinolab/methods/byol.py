"""BYOL (arXiv 2006.07733, section 3 and appendix A): from one crop the student predicts a momentum teacher's embedding of the other.

Shapes: B images, D width of a feature, K width of an embedding; m runs over the micro-batches of a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from dinolab.data.types import Views
from dinolab.fields import option, section
from dinolab.losses_pairs import normalised_mse
from dinolab.methods import momentum, pairs
from dinolab.methods.base import Alarm, Logs, StepValues, own_options
from dinolab.methods.momentum import Ema, MomentumTeacher, momentum_schedule
from dinolab.methods.pairs import check_pairs, embed, pair_figures, projector
from dinolab.methods.schedules import Phase, Schedule
from dinolab.models.heads import mlp
from dinolab.options import Config
from dinolab.panels import LOSS, Panel


@dataclass
class Projector(pairs.Projector):
    hidden: int = option(4096, "width of the hidden layers", 1, 65536)


@dataclass
class Predictor:
    hidden: int = option(4096, "width of its hidden layers", 1, 65536)
    layers: int = option(2, "layers of the MLP, with batch norm where the head has it", 1, 10)


@dataclass
class Options:
    head: Projector = section(Projector, "projection head of the class token")
    predictor: Predictor = section(Predictor, "the student's predictor of the teacher's embeddings")
    ema: Ema = section(Ema, "momentum of the teacher")


class Targets(NamedTuple):
    """What the teacher says of one micro-batch."""

    features_2BD: Tensor
    embeddings_2BK: Tensor


class BYOL(MomentumTeacher):
    """The product is the student's backbone, as published. Micro-batches change nothing but the statistics of batch norm."""

    TITLE = "BYOL"
    PRODUCT = "student"
    Options: ClassVar[type] = Options
    PANELS = (Panel(LOSS, "loss", {"loss": "loss"}, zero=True), *pairs.PANELS, momentum.PANEL)
    ALARMS: ClassVar[tuple[Alarm, ...]] = pairs.ALARMS

    def __init__(self, backbone: nn.Module, cfg: Config):
        options = own_options(cfg, Options)
        head, predictor = options.head, options.predictor
        super().__init__(
            {"backbone": backbone, "head": projector(cast(int, backbone.dim), head)},
            alone={"predictor": mlp(head.out, predictor.hidden, head.out, predictor.layers, head.batch_norm)},
        )

    @classmethod
    def check(cls, cfg: Config) -> None:
        check_pairs(cfg)

    @classmethod
    def schedules(cls, cfg: Config, phase: Phase) -> dict[str, Schedule]:
        return momentum_schedule(own_options(cfg, Options).ema, phase)

    @torch.no_grad()
    def targets(self, batches: list[Views], s: StepValues) -> list[Targets]:
        return [Targets(*embed(self.teacher, views)) for views in batches]

    def loss(self, views: Views, targets: Targets, s: StepValues) -> tuple[Tensor, Logs]:
        _, z_2BK = embed(self.student, views)
        first, second = (self.student["predictor"](z) for z in z_2BK)
        of_first, of_second = targets.embeddings_2BK
        loss = normalised_mse(first, of_second) + normalised_mse(second, of_first)
        return loss, {"loss": loss.detach()}

    def figures(self, targets: list[Any], parts: Mapping[str, float]) -> dict[str, float]:
        return pair_figures(*map(list, zip(*targets)))
