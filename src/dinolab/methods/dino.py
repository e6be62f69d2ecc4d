"""DINO (arXiv 2104.14294, Algorithm 1): self-distillation with multi-crop, a momentum teacher, centring and sharpening.

Shapes: B images, L local crops, D width of a feature, K prototypes; m runs over the micro-batches of a step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.fields import option, section
from dinolab.losses import at_least_fp32, info_nce, squared_distance
from dinolab.methods import momentum, prototypes
from dinolab.methods.base import Alarm, Logs, StepValues, join, own_options
from dinolab.methods.figures import feature_figures, target_figures
from dinolab.methods.momentum import Ema, MomentumTeacher, momentum_schedule
from dinolab.methods.prototypes import (
    PrototypeLoss,
    Targets,
    continue_schedules,
    frozen_prototypes,
    mean_over_pairs,
    move_centre,
    multi_crop_loss,
    prototype_targets,
    temperature_schedule,
)
from dinolab.methods.schedules import Freeze, Phase, Schedule
from dinolab.models.encoder import Features
from dinolab.models.heads import DINOHead
from dinolab.options import Config, Head
from dinolab.panels import LOSS, Panel
from dinolab.parallel import gather_over_ranks, rank, world

DISTRIBUTIONS, OUTPUTS = ("cross_entropy", "mse_softmax"), ("mse", "infonce")  # what a loss compares


@dataclass
class Loss(PrototypeLoss):
    compare: str = option(
        "cross_entropy",
        "how student and teacher are compared. cross_entropy, mse_softmax (squared distance): the distributions over prototypes. "
        "mse (squared distance, as BYOL), infonce (against the batch's other images): the head's outputs, of length one",
        choices=(*DISTRIBUTIONS, *OUTPUTS),
    )


@dataclass
class Options:
    head: Head = section(Head, "projection head and prototypes of the class token")
    loss: Loss = section(Loss, "targets, comparison, temperatures and prototypes")
    ema: Ema = section(Ema, "momentum of the teacher")


def comparison(loss: PrototypeLoss) -> str:
    """The option `loss.compare`; where a method that is built on DINO has no such option, its default."""
    return getattr(loss, "compare", DISTRIBUTIONS[0])


@dataclass
class Outputs(Targets):
    """With loss.compare=mse and infonce, where `cls_2BK` are the teacher's outputs of length one."""

    everyone_2NK: Tensor | None = None  # those of all images of the step, with infonce
    places_B: Tensor | None = None  # int64, where the micro-batch's images stand among them


class DINO(MomentumTeacher):
    """DINO, and with the options `loss.targets`, `loss.compare`, `head.predictor` and `ema` the variants of its table 7."""

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
        self.compare = comparison(options.loss)
        self.log_k = math.log(options.head.prototypes)
        self.register_buffer("centre", torch.zeros(options.head.prototypes))

    @staticmethod
    def make_heads(dim: int, options: Any) -> dict[str, nn.Module]:
        """The heads by name, for features of width `dim`."""
        return {"head": DINOHead(dim, options.head)}

    @classmethod
    def check(cls, cfg: Config) -> None:
        loss: Any = own_options(cfg, cls.Options).loss
        if comparison(loss) in OUTPUTS and loss.targets == "sinkhorn":
            raise UserError(
                f"loss.targets=sinkhorn makes distributions, and loss.compare={loss.compare} compares outputs: "
                "set loss.targets=centring, or softmax for outputs without centring"
            )

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
        return self.class_targets(self.teacher["head"], [self.teacher_features(views) for views in batches], s)

    def class_targets(self, head: nn.Module, features: list[Features], s: StepValues) -> list[Targets]:
        """Each micro-batch's targets for the class tokens of its global crops, as `loss.compare` needs them."""
        if self.compare in OUTPUTS:
            return self.output_targets(head, features)
        cls = [f.cls.unflatten(0, (2, -1)) for f in features]  # each (2, B_m, D)
        cls_2BK = prototype_targets(head(join(cls, 1)), self.centre, self.loss_options, s)
        return [Targets(t, x) for t, x in zip(cls_2BK.split([x.shape[1] for x in cls], dim=1), cls)]

    def output_targets(self, head: nn.Module, features: list[Features]) -> list[Targets]:
        """The teacher's outputs: less the centre with targets=centring, then of length one."""
        cls = [f.cls.unflatten(0, (2, -1)) for f in features]
        logits_2BK = at_least_fp32(head(join(cls, 1)))
        parts = F.normalize(logits_2BK - self.centre, dim=-1).split([x.shape[1] for x in cls], dim=1)
        move_centre(self.centre, logits_2BK, self.loss_options)
        if self.compare != "infonce":
            return [Outputs(t, x) for t, x in zip(parts, cls)]
        everyone = gather_over_ranks(join(list(parts), 1).transpose(0, 1).contiguous()).transpose(0, 1)
        places = torch.arange(everyone.shape[1], device=everyone.device).chunk(world())[rank()]
        own = places.split([x.shape[1] for x in cls])
        return [Outputs(t, x, everyone_2NK=everyone, places_B=n) for t, x, n in zip(parts, cls, own)]

    def loss(self, views: Views, targets: Targets, s: StepValues) -> tuple[Tensor, Logs]:
        _, cls_VD = self.student_features(views)
        loss = self.class_loss(cls_VD, targets)
        return loss, {"loss": loss.detach(), "dino": loss.detach()}

    def class_loss(self, cls_VD: Tensor, targets: Targets) -> Tensor:
        """DINO's loss of the student's class tokens of all crops, ((2 + L) B, D)."""
        compared = cast(DINOHead, self.student["head"]).compare(cls_VD)
        temperature, aims_2BK = self.loss_options.student_temperature, targets.cls_2BK
        if self.compare == "cross_entropy":
            return multi_crop_loss(compared, aims_2BK, temperature)
        outputs_VBK = at_least_fp32(F.linear(*compared)).unflatten(0, (-1, aims_2BK.shape[1]))
        if self.compare == "mse_softmax":
            p_VBK = (outputs_VBK / temperature).softmax(-1)
            return mean_over_pairs(p_VBK, lambda p_BK, i: squared_distance(p_BK, aims_2BK[i]))
        outputs_VBK = F.normalize(outputs_VBK, dim=-1)
        if self.compare == "mse":
            return mean_over_pairs(outputs_VBK, lambda x_BK, i: squared_distance(x_BK, aims_2BK[i]))
        assert isinstance(targets, Outputs) and targets.everyone_2NK is not None and targets.places_B is not None
        keys_2NK, places_B = targets.everyone_2NK, targets.places_B
        return mean_over_pairs(outputs_VBK, lambda x_BK, i: info_nce(x_BK, keys_2NK[i], places_B, temperature))

    def figures(self, targets: list[Targets], parts: Mapping[str, float]) -> dict[str, float]:
        features = [t.features_2BD for t in targets if t.features_2BD is not None]
        found = feature_figures(features) if features else {}
        if self.compare in DISTRIBUTIONS:
            found |= target_figures([t.cls_2BK for t in targets]) | {"log_k": self.log_k}
        if self.compare == "cross_entropy":
            found |= {"kl": parts["dino"] - found["teacher_entropy"]}
        return found | ({"centre_norm": self.centre.norm().item()} if self.loss_options.targets == "centring" else {})
