"""DINOv2 (arXiv 2304.07193, section 4): DINO on the class token, iBOT on masked patches with a head of its own, KoLeo.

Shapes: B images, N patches, D width, K prototypes, M masked patches; m runs over the micro-batches of a step.
"""

from typing import cast

import torch
from torch import Tensor, nn

from dinolab.data.types import Views
from dinolab.losses import koleo, prototype_cross_entropy
from dinolab.methods.base import Logs, Schedule, StudentTeacher, Targets, join
from dinolab.models.encoder import Features
from dinolab.models.heads import DINOHead
from dinolab.options import Config


class DINOv2(StudentTeacher):
    """With loss.ibot=0 there are no masks and no second head: DINO with KoLeo."""

    patch_centre: Tensor  # (K,), of the patches' logits

    def __init__(self, backbone: nn.Module, dim: int, cfg: Config):
        student = {"backbone": backbone, "head": DINOHead(dim, cfg.head)}
        if cfg.loss.ibot:
            student["ibot_head"] = DINOHead(dim, cfg.ibot_head)
        super().__init__(student, cfg.loss)
        self.register_buffer("centre", torch.zeros(cfg.head.prototypes))
        self.register_buffer("patch_centre", torch.zeros(cfg.ibot_head.prototypes))

    @torch.no_grad()
    def targets(self, batches: list[Views], s: Schedule) -> list[Targets]:
        features, targets = self.teacher_says(batches, s)
        if self.cfg.ibot:
            masked = [masked_patches(f, views) for f, views in zip(features, batches)]  # each (M_m, D)
            patches_MK = self.normalise_targets(self.teacher["ibot_head"](join(masked, 0)), self.patch_centre, s)
            for target, p_MK, views in zip(targets, patches_MK.split([len(x) for x in masked]), batches):
                target.patches_MK, target.patch_weights_M = p_MK, patch_weights(views)
        return targets

    def loss(self, views: Views, targets: Targets, s: Schedule) -> tuple[Tensor, Logs]:
        features, dino = self.student_says(views, targets)
        first, second = features.cls.chunk(2)
        spread = koleo(first) + koleo(second)  # each global crop by itself: its pair must not count as its neighbour

        loss = dino + self.cfg.koleo * spread
        logs = {"dino": dino.detach(), "koleo": spread.detach()}
        if self.cfg.ibot:
            ibot = self.ibot(features, views, targets)
            loss = loss + self.cfg.ibot * ibot
            logs["ibot"] = ibot.detach()
        return loss, {"loss": loss.detach(), **logs}

    def ibot(self, features: Features, views: Views, targets: Targets) -> Tensor:
        """Cross-entropy of the masked patches with what the teacher, which sees them, says of them."""
        assert targets.patches_MK is not None and targets.patch_weights_M is not None
        compared = cast(DINOHead, self.student["ibot_head"]).compare(masked_patches(features, views))
        weights, temperature = targets.patch_weights_M, self.cfg.student_temperature
        return prototype_cross_entropy(*compared, targets.patches_MK, weights, temperature)


def masked_patches(features: Features, views: Views) -> Tensor:
    """The patch tokens under the mask: (M, D)."""
    assert views.masked is not None, "the loader makes masks where method=dinov2"
    return features.patches.flatten(0, 2).index_select(0, views.masked)


def patch_weights(views: Views) -> Tensor:
    """Weights (M,) that make the loss, averaged over micro-batches, the mean over the step's global crops of each
    crop's mean over its masked patches; a crop without a mask counts as 0 (iBOT, arXiv 2111.07832, equation 2)."""
    m = views.masks
    assert m is not None and views.masked is not None
    each_2BN = (1 / (m.sum(-1, keepdim=True) * m.shape[0] * m.shape[1])).expand_as(m)
    return each_2BN.flatten().index_select(0, views.masked)
