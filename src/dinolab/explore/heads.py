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
UNREADABLE = (UserError, OSError, ValueError, LookupError, RuntimeError, AttributeError)
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

    best: np.ndarray  # int64 (N, 6), those of greatest probability, the greatest first; -1 where they cannot be read
    probability: np.ndarray  # float32 (N, 6)
    images: dict[int, list[int]]  # for each of these prototypes up to 6 images of greatest probability


@dataclass(frozen=True)
class Head:
    """Where prototypes are: a checkpoint, and the configuration of its run."""

    checkpoint: Path
    config: Any

    def read(self) -> Prototypes | None:
        """The prototypes; None where they cannot be read."""
        from torch.distributed.checkpoint.api import CheckpointException  # here, for it takes half a second to import

        from dinolab.weights.metadata import CheckpointReader, load_tensors

        try:
            check_files(self.checkpoint)
            reader = CheckpointReader(self.checkpoint)
            saved: dict[str, Any] = reader.metadata.state_dict_metadata
            prefix = next(one for one in PREFIXES if f"{one}prototypes.weight" in saved)
            names = [name for name in saved if name.startswith(prefix) or name == CENTRE]
            tensors = {name: torch.empty(saved[name].size, dtype=saved[name].properties.dtype) for name in names}
            load_tensors(tensors, reader)
            centre = tensors.pop(CENTRE, torch.zeros(self.config.head.prototypes))
            head = DINOHead(tensors[f"{prefix}mlp.0.weight"].shape[1], self.config.head)
            head.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
        except (*UNREADABLE, StopIteration, CheckpointException):
            return None  # the images are worth looking at without them
        return Prototypes(head.requires_grad_(False).eval(), centre, self.config.loss)


def head_of(place: Path) -> Head | None:
    """Where the prototypes of a run are (in its last checkpoint), or those of a checkpoint; None where its method has none."""
    kept = [place] if is_checkpoint(place) else checkpoints(RunFolder(place).checkpoints)[-1:]
    if not kept:
        return None
    try:
        config = load_saved_config(RunFolder(kept[0].absolute().parents[1]).config)
    except UNREADABLE:
        return None
    return Head(kept[0], config) if isinstance(getattr(config, "loss", None), PrototypeLoss) else None


def assign(prototypes: Prototypes | None, unit: Tensor, lengths: Tensor) -> Assigned:
    """The prototypes of all images.

    Images are taken in a random order: batch norm and Sinkhorn-Knopp compare those that they see at once.

    Args:
        prototypes: None where they cannot be read.
        unit: their features (N, D), of length one.
        lengths: that these had, (N, 1).
    """
    if prototypes is None:
        return Assigned(np.full((len(unit), 1), -1), np.zeros((len(unit), 1), np.float32), {})
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
