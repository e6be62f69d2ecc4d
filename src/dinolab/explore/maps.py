"""Maps: two numbers for each image, so that images with similar features lie near each other. N images, D features."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dinolab.features import cache

DIRECTIONS, ROUNDS = 16, 10  # of the subspace iteration: more make the components more exact


def kept(file: Path | None, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors that a file keeps; they are made, and kept, where there is none."""
    found = cache.read(file) if file else None
    if found:
        return found[0]
    made = make()
    if file:
        cache.write(file, made, {})
    return made


def pca_map(features: Tensor) -> Tensor:
    """The first two principal components of features (N, D), float32 (N, 2) in [-1, 1].

    They are found by subspace iteration (Halko et al. 2011, arXiv 0909.4061): D may be thousands, as that of raw pixels. A component's
    sign is arbitrary: the loading of greatest size is made positive.
    """
    mean, width = features.mean(0), min(DIRECTIONS, features.shape[1])

    def projected(onto: Tensor) -> Tensor:
        return features @ onto - mean @ onto

    basis = torch.randn(features.shape[1], width, generator=torch.Generator().manual_seed(0))
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(features.T @ projected(basis)).Q
    scatter = projected(basis).double()
    turn = torch.linalg.eigh(scatter.T @ scatter).eigenvectors[:, -2:].flip(1)
    basis = basis @ turn.float()
    return fill(projected(basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()))


def fill(points: Tensor) -> Tensor:
    """Points (N, 2) moved and scaled, both axes alike, so that they fill [-1, 1]."""
    low, high = points.amin(0), points.amax(0)
    half = float((high - low).max()) / 2
    return (points - (low + high) / 2) / max(half, 1e-12)


def aligned(points: Tensor, reference: Tensor) -> Tensor:
    """Points (N, 2) turned, and mirrored if need be, so that they lie as near as possible to those of a reference (N, 2).

    This is orthogonal Procrustes analysis (Schönemann 1966). Then they fill [-1, 1] again.
    """
    from scipy.linalg import orthogonal_procrustes  # here, for one encoder needs no alignment

    mine, theirs = points.double(), reference.double()
    turn, _ = orthogonal_procrustes((mine - mine.mean(0)).numpy(), (theirs - theirs.mean(0)).numpy())
    return fill((mine - mine.mean(0)) @ torch.from_numpy(turn)).float()


def place_by_neighbours(points: np.ndarray, near: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """Places for images that are not on a map, float32 (M, 2): the mean of their neighbours' places, weighted by similarity.

    Args:
        points: places on the map, (n, 2).
        near: rows of the neighbours on it, int64 (M, k).
        similarity: cosine similarities, (M, k).
    """
    weights = np.exp((similarity - similarity.max(1, keepdims=True)) / 0.05)
    return (points[near] * (weights / weights.sum(1, keepdims=True))[..., None]).sum(1).astype(np.float32)
