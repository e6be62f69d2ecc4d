"""Linear layers on frozen features that are trained side by side, and the training images held out to choose among them.

B images of a batch, D features, L layers, C classes.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.data import draws
from dinolab.features.extract import FeatureSet
from dinolab.models.encoder import evaluating
from dinolab.precision import autocast, choose_precision, quick_products

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


class Heads(nn.Module):
    """L linear layers for the same features, trained side by side by SGD, each with a learning rate of its own.

    Their weights lie in one tensor: a step is one product and one update. The optimizer's rate is the same for all; each layer's
    loss is multiplied by its own rate, which multiplies its gradients, and with momentum still each of its updates.

    Args:
        generator: of the initial weights, which are normal with deviation 0.01.
    """

    rates: Tensor  # (L,)

    def __init__(self, width: int, classes: int, rates: Sequence[float], generator: torch.Generator):
        super().__init__()
        weight = torch.empty(len(rates), classes, width)
        self.weight = nn.Parameter(nn.init.normal_(weight, std=0.01, generator=generator))
        self.bias = nn.Parameter(torch.zeros(len(rates), classes))
        self.register_buffer("rates", torch.tensor(rates))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (L, B, C) of all layers for features (B, D), by one product."""
        return F.linear(x, self.weight.flatten(0, 1), self.bias.flatten()).unflatten(1, self.bias.shape).transpose(0, 1)

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """The sum over layers of rate x mean cross-entropy, so that no layer's gradient depends on another layer."""
        outputs = self(x)
        each = F.cross_entropy(outputs.flatten(0, 1), labels.repeat(len(outputs)), reduction="none")
        return self.rates @ each.unflatten(0, outputs.shape[:2]).mean(1)

    def layer(self, number: int) -> nn.Linear:
        """One of the layers, by itself."""
        linear = nn.Linear(self.weight.shape[2], self.weight.shape[1], device=self.weight.device)
        linear.load_state_dict({"weight": self.weight[number].detach(), "bias": self.bias[number].detach()})
        return linear


@quick_products()  # for the backward pass too
def train_heads(heads: Sequence[Heads], batches: Iterable[Sequence[tuple[Tensor, Tensor]]], steps: int) -> None:
    """Train in place: SGD with momentum 0.9, no weight decay, rates that fall to zero along a cosine.

    Args:
        batches: at each step the features (B, D) and labels (B,) for each of `heads`.
    """
    optimizer = torch.optim.SGD([p for each in heads for p in each.parameters()], lr=1, momentum=0.9, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batch in batches:
        optimizer.zero_grad()
        torch.stack([each.loss(x, labels) for each, (x, labels) in zip(heads, batch)]).sum().backward()
        optimizer.step()
        schedule.step()
