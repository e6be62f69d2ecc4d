"""What every method with a student and a momentum teacher shares."""

import copy
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from dinolab.config import Loss
from dinolab.data.types import Views
from dinolab.losses import centred_softmax, sinkhorn_knopp, update_centre
from dinolab.models.vit import ViT

Logs = dict[str, Tensor]


class Schedule(Protocol):
    """The scheduled values of one step that methods read."""

    @property
    def momentum(self) -> float: ...

    @property
    def teacher_temperature(self) -> float: ...


@dataclass
class Targets:
    """What the teacher says of one micro-batch; made with all micro-batches of the step in view, without gradient."""

    cls_2BK: Tensor  # distributions over the prototypes, for the class token of each global crop
    features_2BD: Tensor  # the teacher's class tokens themselves, for health figures
    patches_MK: Tensor | None = None  # distributions for the masked patches, in the order of the mask
    patch_weights_M: Tensor | None = None  # each masked patch's weight in the loss


class StudentTeacher(nn.Module):
    """A student that is trained and a teacher that follows it as an exponential moving average (EMA)."""

    centre: Tensor  # (K,), of the class token's logits

    def __init__(self, student: dict[str, nn.Module], cfg: Loss):
        super().__init__()
        self.cfg = cfg
        self.student = nn.ModuleDict(student)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    @property
    def product(self) -> ViT:
        """What the run is for: the teacher's backbone."""
        return cast(ViT, self.teacher["backbone"])

    def train(self, mode: bool = True) -> "StudentTeacher":
        super().train(mode)
        self.teacher.eval()  # no stochastic depth; the heads' batch norm keeps no running statistics
        return self

    def normalise_targets(self, logits: Tensor, centre: Tensor, s: Schedule) -> Tensor:
        """Distributions from the teacher's logits (..., K) of the whole step; with centring, the centre (K,) moves on."""
        if self.cfg.targets == "sinkhorn":
            flat = sinkhorn_knopp(logits.flatten(0, -2), s.teacher_temperature, self.cfg.sinkhorn_iterations)
            return flat.view(logits.shape)
        targets = centred_softmax(logits, centre, s.teacher_temperature)
        centre.copy_(update_centre(centre, logits, self.cfg.centre_momentum))
        return targets

    @torch.no_grad()
    def after_step(self, s: Schedule) -> None:
        """teacher <- m * teacher + (1 - m) * student, all parameters in one call."""
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - s.momentum)

    def targets(self, batches: list[Views], s: Schedule) -> list[Targets]:
        """Each micro-batch's targets, from all micro-batches of the step together."""
        raise NotImplementedError

    def loss(self, views: Views, targets: Targets, s: Schedule) -> tuple[Tensor, Logs]:
        """A micro-batch's loss, to be averaged over micro-batches, and its parts for the log."""
        raise NotImplementedError


def join(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
