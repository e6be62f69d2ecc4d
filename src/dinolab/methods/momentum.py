"""A student that is trained, and a teacher that follows it as an exponential moving average (EMA).

Shapes: B images, D width of a feature.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dinolab.data.types import Views
from dinolab.fields import option
from dinolab.methods.base import Method, StepValues
from dinolab.methods.schedules import Phase, Schedule, cosine
from dinolab.models.encoder import Features
from dinolab.panels import SCHEDULES, Panel

PANEL = Panel(SCHEDULES, "teacher's EMA momentum", {"momentum": "momentum"})


@dataclass
class Ema:
    start: float = option(0.996, "momentum of the teacher at the start", 0, 1)
    end: float = option(1.0, "momentum of the teacher at the end of the run (cosine)", 0, 1)


def momentum_schedule(ema: Ema, phase: Phase) -> dict[str, Schedule]:
    return {"momentum": partial(_momentum, ema, phase.total)}


def _momentum(ema: Ema, total: int, step: int) -> float:
    return cosine(ema.start, ema.end, step, total)


class MomentumTeacher(Method):
    """The teacher has the student's networks. It takes no gradient, and its backbone is the run's product.

    Args:
        student: networks that both have, by name.
        alone: networks that the student has alone, such as a predictor.
    """

    PRODUCT = "teacher"

    def __init__(self, student: dict[str, nn.Module], alone: Mapping[str, nn.Module] | None = None):
        super().__init__(student)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.student.update(alone or {})  # last, so that the first parts of student and teacher are pairs

    @property
    def networks(self) -> tuple[nn.ModuleDict, ...]:
        return self.student, self.teacher

    def train(self, mode: bool = True) -> "MomentumTeacher":
        super().train(mode)
        self.teacher.eval()  # no stochastic depth
        for ours, theirs in zip(self.student.modules(), self.teacher.modules()):
            if isinstance(theirs, nn.modules.batchnorm._BatchNorm):
                theirs.train(ours.training)  # as published: it takes each batch's own statistics in the teacher too
        return self

    @torch.no_grad()
    def after_step(self, s: StepValues) -> None:
        """teacher <- m * teacher + (1 - m) * student, all parameters that both have in one call."""
        theirs: list[Tensor] = [*self.teacher.parameters()]
        ours: list[Tensor] = [p for p, _ in zip(self.student.parameters(), theirs)]
        torch._foreach_lerp_(theirs, ours, 1 - s["momentum"])

    def teacher_features(self, views: Views) -> Features:
        """The teacher's features of the global crops; without masks."""
        return self.teacher["backbone"]([self.pixels(views.global_crops)])[0]
