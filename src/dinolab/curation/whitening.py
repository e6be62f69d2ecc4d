"""Embeddings in which similarity means the same for every encoder: without their common mean, and with even spread.

The features of many encoders have a large mean, so that any two images are similar; the thresholds that are published for copies belong
to an encoder that was trained to spread its features evenly. N images, D features.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.features.store import Matrix

SAMPLED = 16384  # images that it is learned from, at most
CHUNK = 16384  # rows that are changed at once
RIDGE = 1 / 40  # of the whole variance; chosen on 200 photographs and copies of 40 of them, see docs/curate.md


class Spread(NamedTuple):
    """Whitening that leaves directions of little variance nearly as they are."""

    mean: Tensor  # float32 (D,)
    directions: Tensor  # orthonormal, float32 (r, D)
    scales: Tensor  # of each direction, float32 (r,); all others have a scale of 1

    def apply(self, embeddings: Tensor) -> Tensor:
        """Embeddings (N, D) of any floating type, changed and of length 1, float16 (N, D)."""
        parts = []
        for part in embeddings.split(CHUNK):
            x = F.normalize(part.to(self.mean).float(), dim=1) - self.mean
            x = x + (x @ self.directions.T * (self.scales - 1)) @ self.directions
            parts.append(F.normalize(x, dim=1).half().cpu())
        return torch.cat(parts)


def learn_spread(embeddings: Matrix, rng: np.random.Generator, device: torch.device | str) -> Spread:
    """Learn from a sample of embeddings (N, D).

    Each direction of variance v is divided by sqrt(v + r), where r is 1/40 of the whole variance. Without r, the small differences
    between copies would count as much as large ones between other images.
    """
    drawn = np.sort(rng.choice(len(embeddings), min(len(embeddings), SAMPLED), replace=False))
    x = F.normalize(embeddings[torch.from_numpy(drawn)].to(device).float(), dim=1)
    mean = x.mean(0)
    x = (x - mean).to(torch.float64 if x.device.type == "cpu" else torch.float32)
    if len(x) > x.shape[1]:
        variances, vectors = torch.linalg.eigh(x.T @ x / len(x))
        directions = vectors.T
    else:
        _, values, directions = torch.linalg.svd(x, full_matrices=False)
        variances = values.square() / len(x)
    least = (RIDGE * variances.sum()).clamp(min=1e-12)
    scales = (least / (variances.clamp(min=0) + least)).sqrt()
    return Spread(mean, directions.float(), scales.float())
