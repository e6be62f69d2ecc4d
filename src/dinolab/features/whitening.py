"""PCA whitening of features, learned on images that are neither searched for nor searched among.

N images, D features.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-5  # share of the largest eigenvalue below which others are raised to it
CHUNK = 4096  # rows that are whitened at once


class Whitening(NamedTuple):
    """A mean and a matrix after whose application all directions have the same weight."""

    mean: Tensor  # float64 (D,)
    matrix: Tensor  # float64 (D, D), from features to whitened ones

    def apply(self, features: Tensor) -> Tensor:
        """Whitened features of length 1, float32 (N, D), from features (N, D)."""
        parts = ((part.double() - self.mean) @ self.matrix.T for part in features.split(CHUNK))
        return torch.cat([F.normalize(part, dim=1).float() for part in parts])


def learn_whitening(features: Tensor) -> Whitening:
    """Learn a whitening from features (N, D), as the code of DINO does.

    The directions are those of the second moment about zero. The mean is taken off when the whitening is applied, and not before it
    is learned.
    """
    mean = torch.zeros(features.shape[1], dtype=torch.float64)
    moment = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in features.split(CHUNK):
        mean += part.double().sum(0) / len(features)
        moment += part.double().T @ part.double() / len(features)
    return whitening_of(mean, moment)


def whitening_of(mean: Tensor, moment: Tensor) -> Whitening:
    """The whitening of features with this mean (D,) and second moment (D, D); its first direction is the one of the largest eigenvalue."""
    values, vectors = torch.linalg.eigh(moment.double())
    values = values.clamp(min=SMALLEST * float(values.max()))
    return Whitening(mean.double(), (vectors / values.sqrt()).T.flip(0))
