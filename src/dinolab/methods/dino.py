"""DINO (arXiv 2104.14294, Algorithm 1): self-distillation with multi-crop, a momentum teacher, centring and sharpening.

Shapes: B images, L local crops, D width of a feature, K prototypes; m runs over the micro-batches of a step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dinolab.data.types import Views
from dinolab.fields import section
from dinolab.methods import momentum, prototypes
from dinolab.methods.base import Alarm, Logs, StepValues, join, own_options
from dinolab.methods.figures import feature_figures, target_figures
from dinolab.methods.momentum import Ema, MomentumTeacher, momentum_schedule
from dinolab.methods.prototypes import (
    PrototypeLoss,
    Targets,
    continue_schedules,
    frozen_prototypes,
    multi_crop_loss,
    prototype_targets,
    temperature_schedule,
)
from dinolab.methods.schedules import Freeze, Phase, Schedule
from dinolab.models.encoder import Features
from dinolab.models.heads import DINOHead
from dinolab.options import Config, Head
from dinolab.panels import LOSS, Panel


@dataclass
class Options:
    head: Head = section(Head, "projection head and prototypes of the class token")
    loss: PrototypeLoss = section(PrototypeLoss, "targets, temperatures and prototypes")
    ema: Ema = section(Ema, "momentum of the teacher")


class DINO(MomentumTeacher):
    TITLE = "DINO"
    Options: ClassVar[type] = Options
    PANELS = (
        Panel(LOSS, "loss", {"loss": "DINO"}, level="log_k", level_label="log K"),
        *prototypes.PANELS,
        momentum.PANEL,
        prototypes.TEMPERATURE_PANEL,
    )
    ALARMS: ClassVar[tuple[Alarm, ...]] = prototypes.ALARMS

    centre: Tensor  # (K,), running mean of the class tokens' logits

    def __init__(self, backbone: nn.Module, cfg: Config):
        options: Any = own_options(cfg, self.Options)
        super().__init__({"backbone": backbone, **self.make_heads(cast(int, backbone.dim), options)})
        self.loss_options: Any = options.loss  # a PrototypeLoss, or a subclass with more
        self.log_k = math.log(options.head.prototypes)
        self.register_buffer("centre", torch.zeros(options.head.prototypes))

    @staticmethod
    def make_heads(dim: int, options: Any) -> dict[str, nn.Module]:
        """The heads by name, for features of width `dim`."""
        return {"head": DINOHead(dim, options.head)}

    @classmethod
    def schedules(cls, cfg: Config, phase: Phase) -> dict[str, Schedule]:
        options: Any = own_options(cfg, cls.Options)
        return momentum_schedule(options.ema, phase) | temperature_schedule(options.loss, phase)

    @classmethod
    def frozen(cls, cfg: Config, phase: Phase) -> dict[str, Freeze]:
        options: Any = own_options(cfg, cls.Options)
        return frozen_prototypes(options.loss, phase)

    @classmethod
    def continue_in_next_phase(cls, cfg: Config) -> None:
        options: Any = own_options(cfg, cls.Options)
        continue_schedules(options.loss)

    @torch.no_grad()
    def targets(self, batches: list[Views], s: StepValues) -> list[Targets]:
        features = [self.teacher_features(views) for views in batches]
        return self.class_targets(self.teacher["head"], features, s)

    def class_targets(self, head: nn.Module, features: list[Features], s: StepValues) -> list[Targets]:
        """Each micro-batch's targets for the class tokens of its global crops."""
        cls = [f.cls.unflatten(0, (2, -1)) for f in features]  # each (2, B_m, D)
        cls_2BK = prototype_targets(head(join(cls, 1)), self.centre, self.loss_options, s)
        return [Targets(t, x) for t, x in zip(cls_2BK.split([x.shape[1] for x in cls], dim=1), cls)]

    def loss(self, views: Views, targets: Targets, s: StepValues) -> tuple[Tensor, Logs]:
        _, cls_VD = self.student_features(views)
        loss = self.class_loss(cls_VD, targets)
        return loss, {"loss": loss.detach(), "dino": loss.detach()}

    def class_loss(self, cls_VD: Tensor, targets: Targets) -> Tensor:
        """DINO's loss of the student's class tokens of all crops, ((2 + L) B, D)."""
        head = cast(DINOHead, self.student["head"])
        return multi_crop_loss(head, cls_VD, targets.cls_2BK, self.loss_options.student_temperature)

    def figures(self, targets: list[Targets], parts: Mapping[str, float]) -> dict[str, float]:
        found = target_figures([t.cls_2BK for t in targets])
        features = [t.features_2BD for t in targets if t.features_2BD is not None]
        found |= feature_figures(features) if features else {}
        found |= {"kl": parts["dino"] - found["teacher_entropy"], "log_k": self.log_k}
        return found | ({"centre_norm": self.centre.norm().item()} if self.loss_options.targets == "centring" else {})
