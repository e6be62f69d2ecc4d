"""Linear layers on frozen features that are trained side by side, and the training images held out to choose among them.

B images of a batch, D features, L layers, C classes.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.data import draws
from dinolab.features.extract import FeatureSet
from dinolab.models.encoder import evaluating
from dinolab.precision import autocast, choose_precision

HELD_OUT = 0.1  # share of the training images
ROWS = 1024  # images whose probabilities are computed at once


class Input(NamedTuple):
    """The features that a layer takes."""

    blocks: int  # last blocks whose class tokens it takes
    tokens: str  # cls; patches: the mean of the last block's patches in their place; or both, one after the other

    def rows(self, features: FeatureSet, index: Tensor | None = None) -> Tensor:
        """Its features of the images at rows `index`, float32 (len(index), D); of all images by default."""
        return features.matrix(self.tokens, self.blocks, index)

    def encode(self, encoder: Any, images: Tensor, precision: str) -> Tensor:
        """Its features of a batch of images, float32 (B, D), on their device."""
        with evaluating(encoder), autocast(images.device, choose_precision(precision, images.device)):
            outs = [encoder(images)] if self.blocks == 1 else encoder.layers(images, self.blocks)
            parts = [out.cls.float() for out in outs] if self.tokens != "patches" else []
            if self.tokens != "cls":
                parts.append(outs[-1].patches.float().mean((1, 2)))
        return torch.cat(parts, 1)  # outside, so that gradients may be taken


class Trained(NamedTuple):
    """A linear layer that was trained, and what it takes."""

    linear: nn.Linear
    taken: Input

    def probabilities(self, features: FeatureSet, index: Tensor | None = None) -> Tensor:
        """Probabilities float32 (len(index), C), on the CPU, of the images at rows `index`, or of all images."""
        rows = torch.arange(len(features)) if index is None else index
        device = self.linear.weight.device
        with torch.inference_mode():
            parts = (self.taken.rows(features, some).to(device) for some in rows.split(ROWS))
            return torch.cat([self.linear(part).softmax(1).cpu() for part in parts])


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
