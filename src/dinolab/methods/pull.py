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
    gives the global crops, or the first of each image alone, to its student's backbone as the first of the crops, in the last call
    before its loss is complete.
    """

    def __init__(self, start: Backbone, weight: float):
        self.start, self.weight = start.requires_grad_(False).eval(), weight
        self.seen: Tensor | None = None  # (2 B, D), or (B, D) of the first global crops

    def watch(self, backbone: nn.Module) -> None:
        """Keep what the student's backbone computes from now on."""
        backbone.register_forward_hook(self._keep)

    def _keep(self, backbone: nn.Module, inputs: Any, output: Any) -> None:
        if output[0].cls.requires_grad:  # not in evaluations
            self.seen = output[0].cls

    def add(self, loss: Tensor, logs: dict[str, Tensor], views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """A micro-batch's loss and its parts, with the pull. The mean over the crops: micro-batches and ranks change nothing."""
        crops = views.global_crops.flatten(0, 1)
        assert self.seen is not None and len(crops) % len(self.seen) == 0, "the global crops come first"
        with torch.no_grad():
            aim = self.start([normalise(crops[: len(self.seen)], self.start.pixels)])[0].cls
        cosine = F.cosine_similarity(at_least_fp32(self.seen), at_least_fp32(aim))
        pull, self.seen = 1 - cosine.mean(), None
        loss = loss + self.weight * pull
        return loss, logs | {"loss": loss.detach(), "pull": pull.detach()}
