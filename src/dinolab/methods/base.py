"""What every method with a student and a momentum teacher shares: views in, class tokens compared, teacher moved.

Shapes: B images, L local crops, V = 2 + L views, D width, K prototypes; m runs over the micro-batches of a step.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from dinolab.data.types import Views
from dinolab.losses import centred_softmax, prototype_cross_entropy, sinkhorn_knopp, update_centre
from dinolab.models.backbone import Backbone
from dinolab.models.encoder import Features, normalise
from dinolab.models.heads import DINOHead
from dinolab.options import Loss

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
    features_2BD: Tensor | None  # the teacher's class tokens, for health figures; None of a frozen teacher
    patches_MK: Tensor | None = None  # distributions for the masked patches, in the order of the mask
    patch_weights_M: Tensor | None = None  # each masked patch's weight in the loss


class StudentTeacher(nn.Module):
    """A student that is trained and a teacher that follows it as an exponential moving average (EMA)."""

    PREPARES = ""  # a sentence on work before the first step, which `dinolab plan` prints since it does not time it

    centre: Tensor  # (K,), of the class token's logits

    def __init__(self, student: dict[str, nn.Module], cfg: Loss):
        super().__init__()
        self.cfg = cfg
        self.student = nn.ModuleDict(student)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    @property
    def product(self) -> Backbone:
        """What the run is for: the teacher's backbone."""
        return cast(Backbone, self.teacher["backbone"])

    @property
    def networks(self) -> tuple[nn.ModuleDict, nn.ModuleDict]:
        """Those whose parameters are sharded over several processes."""
        return self.student, self.teacher

    def prepare(self, batches: Iterable[list[Views]]) -> None:
        """What a method has to learn of the data before the first step, from the run's first batches: by default nothing."""

    def train(self, mode: bool = True) -> "StudentTeacher":
        super().train(mode)
        self.teacher.eval()  # no stochastic depth
        for module in self.teacher.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(mode)  # a ResNet's takes each batch's own statistics in the teacher too, as published
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

    def teacher_says(self, batches: list[Views], s: Schedule) -> tuple[list[Features], list[Targets]]:
        """The teacher's features of each micro-batch's global crops, and its targets for their class tokens."""
        features = [self.teacher["backbone"]([normalise(views.globals.flatten(0, 1))])[0] for views in batches]
        cls = [f.cls.unflatten(0, (2, -1)) for f in features]  # each (2, B_m, D)
        cls_2BK = self.normalise_targets(self.teacher["head"](join(cls, 1)), self.centre, s)
        split = cls_2BK.split([x.shape[1] for x in cls], dim=1)
        return features, [Targets(t, x) for t, x in zip(split, cls)]

    def student_says(self, views: Views, targets: Targets) -> tuple[Features, Tensor]:
        """The student's features of the global crops (masked, if there are masks), and the class tokens' loss."""
        crops = [views.globals, views.locals] if len(views.locals) else [views.globals]
        masks = [views.masks.flatten(0, 1) if views.masks is not None else None, None]
        features = self.student["backbone"]([normalise(x.flatten(0, 1)) for x in crops], masks[: len(crops)])
        cls = torch.cat([f.cls for f in features])  # all views: ((2 + L) B, D)
        return features[0], self.head_loss(cls, targets.cls_2BK)

    def head_loss(self, cls_VD: Tensor, targets_2BK: Tensor) -> Tensor:
        """Mean cross-entropy over all pairs of a teacher's global view and another view of the student. DINO, equation 3.

        A global view meets the other one's target, a local view the sum of both, in one go.
        """
        b, device = targets_2BK.shape[1], cls_VD.device
        views = len(cls_VD) // b
        met = torch.cat([targets_2BK.flip(0).flatten(0, 1), targets_2BK.sum(0)])
        rows = torch.cat(
            [torch.arange(2 * b, device=device), torch.arange(2 * b, 3 * b, device=device).repeat(views - 2)]
        )
        pairs = 2 + 2 * (views - 2)
        weights = torch.full((len(cls_VD),), 1 / (b * pairs), dtype=met.dtype, device=device)
        compared = cast(DINOHead, self.student["head"]).compare(cls_VD)
        return prototype_cross_entropy(*compared, met, weights, self.cfg.student_temperature, rows)

    def targets(self, batches: list[Views], s: Schedule) -> list[Targets]:
        """Each micro-batch's targets, from all micro-batches of the step together."""
        raise NotImplementedError

    def loss(self, views: Views, targets: Targets, s: Schedule) -> tuple[Tensor, Logs]:
        """A micro-batch's loss, to be averaged over micro-batches, and its parts for the log."""
        raise NotImplementedError


def join(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
