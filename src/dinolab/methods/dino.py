"""DINO (arXiv 2104.14294, Algorithm 1): self-distillation with multi-crop, a momentum teacher, centring and sharpening.

Shapes: B images, L local crops, D width, K prototypes; m runs over the micro-batches of a step.
"""

import torch
from torch import Tensor, nn

from dinolab.config import Config
from dinolab.data.types import Views
from dinolab.losses import multi_crop_cross_entropy
from dinolab.methods.base import Logs, Schedule, StudentTeacher, Targets, join
from dinolab.models.encoder import normalise
from dinolab.models.heads import DINOHead


class DINO(StudentTeacher):
    def __init__(self, backbone: nn.Module, dim: int, cfg: Config):
        super().__init__({"backbone": backbone, "head": DINOHead(dim, cfg.head)}, cfg.loss)
        self.register_buffer("centre", torch.zeros(cfg.head.prototypes))

    @torch.no_grad()
    def targets(self, batches: list[Views], s: Schedule) -> list[Targets]:
        cls = [self.teacher["backbone"]([normalise(views.globals.flatten(0, 1))])[0].cls for views in batches]
        features = [x.unflatten(0, (2, -1)) for x in cls]  # each (2, B_m, D)
        logits_2BK = self.teacher["head"](join(features, 1))
        targets_2BK = self.normalise_targets(logits_2BK, self.centre, s)
        split = targets_2BK.split([x.shape[1] for x in features], dim=1)
        return [Targets(t, x) for t, x in zip(split, features)]

    def loss(self, views: Views, targets: Targets, s: Schedule) -> tuple[Tensor, Logs]:
        crops = [views.globals, views.locals] if len(views.locals) else [views.globals]
        features = self.student["backbone"]([normalise(x.flatten(0, 1)) for x in crops])
        logits = self.student["head"](torch.cat([f.cls for f in features]))  # all views: ((2 + L) B, K)
        views_VBK = logits.unflatten(0, (-1, len(views.index)))
        loss = multi_crop_cross_entropy(
            targets.cls_2BK, views_VBK[:2], views_VBK[2:] if len(views.locals) else None, self.cfg.student_temperature
        )
        return loss, {"loss": loss.detach(), "dino": loss.detach()}
