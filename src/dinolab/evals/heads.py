"""Linear layers on frozen features that are trained side by side, and the training images held out to choose among them.

B images of a batch, D features, L layers, C classes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.data import draws
from dinolab.features.extract import FeatureSet

HELD_OUT = 0.1  # share of the training images


class Input(NamedTuple):
    """The features that a layer takes."""

    blocks: int  # last blocks whose class tokens it takes
    tokens: str  # cls, or both: with the mean of the last block's patches

    def rows(self, features: FeatureSet, index: Tensor) -> Tensor:
        """Its features of the images at rows `index`, float32 (len(index), D)."""
        return features.matrix(self.tokens, self.blocks, index)


def hold_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """Which images are held out, bool (N,): `share` of each class and at least one, but none of a class with a single image."""
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chosen = draws.rng(seed, draws.SPLIT, label).permutation(len(members))[:count]
        held[members[torch.from_numpy(chosen)]] = True
    return held


def new_head(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A layer with normal weights of deviation 0.01."""
    head = nn.Linear(width, classes)
    nn.init.normal_(head.weight, std=0.01, generator=generator)
    nn.init.zeros_(head.bias)
    return head


def logits(group: list[nn.Linear], x: Tensor) -> Tensor:
    """Logits (L, B, C) of L layers for the same rows (B, D), by one product."""
    weight, bias = torch.cat([head.weight for head in group]), torch.cat([head.bias for head in group])
    return F.linear(x, weight, bias).unflatten(1, (len(group), -1)).transpose(0, 1)
