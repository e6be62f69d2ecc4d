"""DINO (arXiv 2104.14294, Algorithm 1): self-distillation with multi-crop, a momentum teacher, centring and sharpening."""

import torch
from torch import Tensor, nn

from dinolab.data.types import Views
from dinolab.methods.base import Logs, Schedule, StudentTeacher, Targets
from dinolab.models.heads import DINOHead
from dinolab.options import Config


class DINO(StudentTeacher):
    def __init__(self, backbone: nn.Module, dim: int, cfg: Config):
        super().__init__({"backbone": backbone, "head": DINOHead(dim, cfg.head)}, cfg.loss)
        self.register_buffer("centre", torch.zeros(cfg.head.prototypes))

    @torch.no_grad()
    def targets(self, batches: list[Views], s: Schedule) -> list[Targets]:
        _, targets = self.teacher_says(batches, s)
        return targets

    def loss(self, views: Views, targets: Targets, s: Schedule) -> tuple[Tensor, Logs]:
        _, loss = self.student_says(views, targets)
        return loss, {"loss": loss.detach(), "dino": loss.detach()}
