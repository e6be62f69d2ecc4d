"""Directions of a frozen encoder's centred features: targets of a regression by cosine, and prototypes to compare features with.

Shapes: D width of a feature, K prototypes, n features.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.fields import option
from dinolab.losses import at_least_fp32
from dinolab.losses_clusters import spherical_means
from dinolab.parallel import rank
from dinolab.progress import track

ROUNDS = 10  # of k-means


@dataclass
class Regression:
    hidden: int = option(
        0, "width of a hidden layer between the student's features and those of the teacher (0: none)", 0, 1 << 16
    )


class Centred(nn.Module):
    """Features without their mean, which all images share, and scaled to length one."""

    mean: Tensor  # (D,)

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))

    def directed(self, x: Tensor) -> Tensor:
        """Features (..., D) -> (..., D), of length one."""
        return F.normalize(at_least_fp32(x) - self.mean, dim=-1, eps=1e-6)

    def centre(self, x_nD: Tensor) -> None:
        """Take the mean of some features."""
        self.mean.copy_(at_least_fp32(x_nD).mean(0))


class Prototypes(Centred):
    """A head for an encoder that has none: cosines of its centred features with K directions.

    SEED (arXiv 2101.04731) takes a queue of features as directions; here they are centres of clusters, and stay fixed.
    """

    directions: Tensor  # (K, D), of length one

    def __init__(self, dim: int, k: int):
        super().__init__(dim)
        self.register_buffer("directions", torch.zeros(k, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., D) -> logits (..., K), in [-1, 1]."""
        return F.linear(self.directed(x), self.directions)

    def fit(self, x_nD: Tensor, draw: torch.Generator, option: str) -> None:
        """Spherical k-means (Dhillon and Modha, 2001), from K of the features that are drawn at random.

        Raises UserError, which names the option that sets K, with fewer than K features.
        """
        n, k = len(x_nD), len(self.directions)
        if n < k:
            raise UserError(f"{option}={k}, but the whole run has only {n} features to make them from; set it lower")
        self.centre(x_nD)
        x = self.directed(x_nD)
        found = x[torch.randperm(n, generator=draw)[:k].to(x.device)]
        for _ in track(range(ROUNDS), f"clusters for {option}", ROUNDS, rank() == 0):
            found = spherical_means(x, found)
        self.directions.copy_(found)


def regression_head(dim: int, hidden: int, out: int) -> nn.Module:
    """From the student's features to the teacher's."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, out)) if hidden else nn.Linear(dim, out)


def cosine(x: Tensor, directions: Tensor) -> Tensor:
    """The cosine between features (..., D) and directions (..., D) of length one or less: (...)."""
    return (F.normalize(at_least_fp32(x), dim=-1, eps=1e-6) * directions).sum(-1)
