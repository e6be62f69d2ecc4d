"""DINOv2 (arXiv 2304.07193, section 4): DINO on the class token, iBOT on masked patches with a head of its own, KoLeo.

Shapes: B images, L local crops, N patches, D width, K prototypes, M masked patches; m runs over micro-batches.
"""

import torch
from torch import Tensor, nn

from dinolab.config import Config
from dinolab.data.types import Views
from dinolab.losses import cross_entropy, koleo, multi_crop_cross_entropy
from dinolab.methods.base import Logs, Schedule, StudentTeacher, Targets, join
from dinolab.models.encoder import Features, normalise
from dinolab.models.heads import DINOHead


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
        features = [self.teacher["backbone"]([normalise(views.globals.flatten(0, 1))])[0] for views in batches]
        cls = [f.cls.unflatten(0, (2, -1)) for f in features]  # each (2, B_m, D)
        cls_2BK = self.normalise_targets(self.teacher["head"](join(cls, 1)), self.centre, s)
        targets = [Targets(t, x) for t, x in zip(cls_2BK.split([x.shape[1] for x in cls], dim=1), cls)]
        if self.cfg.ibot:
            masks = [masks_of(views) for views in batches]
            masked = [masked_patches(f, m) for f, m in zip(features, masks)]  # each (M_m, D)
            patches_MK = self.normalise_targets(self.teacher["ibot_head"](join(masked, 0)), self.patch_centre, s)
            weights = patch_weights(masks)
            for target, p_MK, w_M in zip(targets, patches_MK.split([len(x) for x in masked]), weights):
                target.patches_MK, target.patch_weights_M = p_MK, w_M
        return targets

    def loss(self, views: Views, targets: Targets, s: Schedule) -> tuple[Tensor, Logs]:
        crops = [views.globals, views.locals] if len(views.locals) else [views.globals]
        masks = [views.masks.flatten(0, 1) if views.masks is not None else None, None]
        features = self.student["backbone"]([normalise(x.flatten(0, 1)) for x in crops], masks[: len(crops)])

        logits = self.student["head"](torch.cat([f.cls for f in features]))  # all views: ((2 + L) B, K)
        views_VBK = logits.unflatten(0, (-1, len(views.index)))
        dino = multi_crop_cross_entropy(
            targets.cls_2BK,
            views_VBK[:2],
            views_VBK[2:] if len(views.locals) else None,
            self.cfg.student_temperature,
        )

        first, second = features[0].cls.chunk(2)
        spread = koleo(first) + koleo(second)  # each global crop by itself: its pair must not count as its neighbour

        loss = dino + self.cfg.koleo * spread
        logs = {"dino": dino.detach(), "koleo": spread.detach()}
        if self.cfg.ibot:
            ibot = self.ibot(features[0], masks_of(views), targets)
            loss = loss + self.cfg.ibot * ibot
            logs["ibot"] = ibot.detach()
        return loss, {"loss": loss.detach(), **logs}

    def ibot(self, features: Features, masks_2BN: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy of the masked patches with what the teacher, which sees them, says of them."""
        assert targets.patches_MK is not None and targets.patch_weights_M is not None
        logits_MK = self.student["ibot_head"](masked_patches(features, masks_2BN))
        each_M = cross_entropy(targets.patches_MK, logits_MK, self.cfg.student_temperature)
        return (each_M * targets.patch_weights_M).sum()


def masks_of(views: Views) -> Tensor:
    assert views.masks is not None, "the loader makes masks where method=dinov2"
    return views.masks


def masked_patches(features: Features, masks_2BN: Tensor) -> Tensor:
    """The patch tokens under the mask: (M, D)."""
    return features.patches.flatten(0, 2)[masks_2BN.flatten()]


def patch_weights(masks: list[Tensor]) -> list[Tensor]:
    """Weights (M_m,) that make the loss, averaged over micro-batches, the mean over the step's masked crops of each
    crop's mean over its masked patches (iBOT, arXiv 2111.07832, equation 2)."""
    counts = [m.sum(-1, keepdim=True) for m in masks]  # each (2, B_m, 1)
    crops = sum((c > 0).sum() for c in counts) / len(masks)
    return [(1 / (c * crops)).expand_as(m)[m] for c, m in zip(counts, masks)]
