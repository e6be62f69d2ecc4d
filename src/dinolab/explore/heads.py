"""The prototypes that a run has trained beside its encoder, and the images that go to each of them.

N images, D features, K prototypes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinolab.errors import UserError
from dinolab.losses import centred_softmax, sinkhorn_knopp
from dinolab.methods.prototypes import PrototypeLoss
from dinolab.models.encoder import evaluating
from dinolab.models.heads import DINOHead
from dinolab.recipes import load_saved_config
from dinolab.rundir import RunFolder, checkpoints
from dinolab.weights.checkpoint import is_checkpoint
from dinolab.weights.checksums import check_files

PREFIXES = ("method.teacher.head.", "method.student.head.")  # the first that there is
CENTRE = "method.centre"
SCORES = 1 << 24  # probabilities that exist at once
SHOWN = 6  # prototypes of an image, and images of a prototype


@dataclass(frozen=True)
class Prototypes:
    """A head, and what turns its logits into probabilities, as the teacher's were while training."""

    head: DINOHead
    centre: Tensor  # (K,); zeros where the training had none
    loss: PrototypeLoss  # its options

    def probabilities(self, features: Tensor) -> Tensor:
        """float32 (n, K) from features (n, D)."""
        with evaluating(self.head):
            logits = self.head(features.float())
        if self.loss.targets == "sinkhorn":
            return sinkhorn_knopp(logits.clone(), self.loss.teacher_temperature, self.loss.sinkhorn_iterations)
        return centred_softmax(logits.clone(), self.centre, self.loss.teacher_temperature)


@dataclass(frozen=True)
class Assigned:
    """The prototypes of all images."""

    best: np.ndarray  # int64 (N, 6), the prototypes of greatest probability, the greatest first
    probability: np.ndarray  # float32 (N, 6)
    images: dict[int, list[int]]  # for each of these prototypes up to 6 images of greatest probability


def read_prototypes(place: Path) -> Prototypes | None:
    """The prototypes of a run (those of its last checkpoint), or of a checkpoint; None where there are none that can be read."""
    kept = [place] if is_checkpoint(place) else checkpoints(RunFolder(place).checkpoints)[-1:]
    if not kept:
        return None
    from torch.distributed.checkpoint.api import CheckpointException  # here, for it takes half a second to import

    from dinolab.weights.metadata import CheckpointReader, load_tensors

    try:
        config: Any = load_saved_config(RunFolder(kept[0].absolute().parents[1]).config)
        check_files(kept[0])
        reader = CheckpointReader(kept[0])
        saved: dict[str, Any] = reader.metadata.state_dict_metadata
        prefix = next((one for one in PREFIXES if f"{one}prototypes.weight" in saved), "")
        if not prefix or not isinstance(getattr(config, "loss", None), PrototypeLoss):
            return None
        names = [name for name in saved if name.startswith(prefix) or name == CENTRE]
        tensors = {name: torch.empty(saved[name].size, dtype=saved[name].properties.dtype) for name in names}
        load_tensors(tensors, reader)
        centre = tensors.pop(CENTRE, torch.zeros(config.head.prototypes))
        head = DINOHead(tensors[f"{prefix}mlp.0.weight"].shape[1], config.head)
        head.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    except (UserError, OSError, ValueError, LookupError, RuntimeError, AttributeError, CheckpointException):
        return None  # the images are worth looking at without them
    return Prototypes(head.requires_grad_(False).eval(), centre, config.loss)


def assign(prototypes: Prototypes, unit: Tensor, lengths: Tensor) -> Assigned:
    """The prototypes of all images.

    Images are taken in a random order: batch norm and Sinkhorn-Knopp compare those that they see at once.

    Args:
        unit: their features (N, D), of length one.
        lengths: that these had, (N, 1).
    """
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(unit)))
    columns = min(SHOWN, len(prototypes.centre))
    best = torch.empty(len(unit), columns, dtype=torch.int64)
    probability = torch.empty(len(unit), columns)
    for rows in order.split(max(256, SCORES // len(prototypes.centre))):
        found = prototypes.probabilities(unit[rows] * lengths[rows]).topk(columns)
        best[rows], probability[rows] = found.indices, found.values
    images: dict[int, list[int]] = {}
    for place in probability.flatten().argsort(descending=True, stable=True).tolist():
        of = images.setdefault(int(best.flatten()[place]), [])
        if len(of) < SHOWN:
            of.append(place // columns)
    return Assigned(best.numpy(), probability.numpy(), images)
