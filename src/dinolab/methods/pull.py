"""A pull of the student's features towards those of the weights that a run starts from, for every method.

Shapes: B images, D width of a feature.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.data.types import Views
from dinolab.losses import at_least_fp32
from dinolab.models.backbone import Backbone
from dinolab.models.encoder import normalise


class Pull:
    """Adds 1 - cosine between the student's class features of the global crops and those of the start, which stays as it is.

    The student's features are those that the method's loss has computed already: a hook on its backbone keeps them. So a method
    gives the global crops to its student's backbone as the first of the crops, in the last call before its loss is complete.
    """

    def __init__(self, start: Backbone, weight: float):
        self.start, self.weight = start.requires_grad_(False).eval(), weight
        self.seen_2BD: Tensor | None = None

    def watch(self, backbone: nn.Module) -> None:
        """Keep what the student's backbone computes from now on."""
        backbone.register_forward_hook(self._keep)

    def _keep(self, backbone: nn.Module, inputs: Any, output: Any) -> None:
        if output[0].cls.requires_grad:  # not in evaluations
            self.seen_2BD = output[0].cls

    def add(self, loss: Tensor, logs: dict[str, Tensor], views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """A micro-batch's loss and its parts, with the pull. The mean over the crops: micro-batches and ranks change nothing."""
        crops = normalise(views.global_crops.flatten(0, 1), self.start.pixels)
        with torch.no_grad():
            aim_2BD = self.start([crops])[0].cls
        assert self.seen_2BD is not None and len(self.seen_2BD) == len(crops), "the global crops come first"
        cosine = F.cosine_similarity(at_least_fp32(self.seen_2BD), at_least_fp32(aim_2BD))
        pull, self.seen_2BD = 1 - cosine.mean(), None
        loss = loss + self.weight * pull
        return loss, logs | {"loss": loss.detach(), "pull": pull.detach()}
