"""K-means in torch: seeds, Lloyd's iterations, and which cluster each row belongs to.

N rows, K clusters, D features. Everything is computed in the rows' own floating type, on their device.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SCORES = 1 << 24  # similarities that exist at once
SAMPLED = 16  # rows for each cluster among which seeds are chosen


def assign(rows: Tensor, centroids: Tensor) -> Tensor:
    """The cluster whose centroid is nearest to each row by Euclidean distance, int64 (N,); the first of several.

    Args:
        rows: (N, D).
        centroids: (K, D).
    """
    half = centroids.square().sum(1) / 2  # |x - c|^2 is smallest where x.c - |c|^2 / 2 is largest
    parts = rows.split(max(1, SCORES // len(centroids)))
    return torch.cat([(part.to(centroids.dtype) @ centroids.T - half).argmax(1) for part in parts])


def lloyd(rows: Tensor, start: Tensor, iterations: int = 50, spherical: bool = False) -> tuple[Tensor, Tensor]:
    """Lloyd's iterations. They stop early where no row changes its cluster, as nothing would change any more.

    Args:
        rows: (N, D); of length 1 for spherical k-means.
        start: centroids to begin with (K, D).
        spherical: whether centroids are scaled to length 1, as cosine similarity needs it.

    Returns:
        Centroids (K, D), and the cluster of each row after the last update, int64 (N,). An empty cluster keeps its centroid.
    """
    centroids, clusters = start, assign(rows, start)
    for _ in range(iterations):
        sums = torch.zeros_like(centroids)
        step = max(1, SCORES // rows.shape[1])
        for part, of in zip(rows.split(step), clusters.split(step)):
            sums.index_add_(0, of, part.to(sums.dtype))
        counts = torch.bincount(clusters, minlength=len(centroids))[:, None]
        means = F.normalize(sums, dim=1) if spherical else sums / counts.clamp(min=1)
        centroids = torch.where(counts > 0, means, centroids)
        before, clusters = clusters, assign(rows, centroids)
        if torch.equal(before, clusters):
            break
    return centroids, clusters


def choose_seeds(rows: Tensor, first: int, draws: np.ndarray) -> Tensor:
    """Rows to begin with by greedy k-means++ (Arthur and Vassilvitskii 2007), int64 (K,).

    Each further seed is drawn with a probability in proportion to its squared distance from the seeds so far. Of several draws, the
    one is kept that makes the sum of these distances smallest.

    Args:
        rows: (N, D).
        first: the first seed.
        draws: uniform numbers from 0 to 1, float (K - 1, draws for each seed).
    """
    squares = rows.square().sum(1)

    def distances(chosen: Tensor) -> Tensor:
        return (squares[chosen, None] + squares[None] - 2 * rows[chosen] @ rows.T).clamp(min=0)

    seeds = [first]
    nearest = distances(torch.tensor([first], device=rows.device))[0]
    for uniforms in draws:
        total = nearest.double().cumsum(0)
        wanted = torch.as_tensor(uniforms, dtype=torch.float64, device=rows.device) * total[-1]
        drawn = torch.searchsorted(total, wanted).clamp(max=len(rows) - 1)
        closer = torch.minimum(nearest, distances(drawn))
        best = int(closer.sum(1).argmin())
        seeds.append(int(drawn[best]))
        nearest = closer[best]
    return torch.tensor(seeds, device=rows.device)


def kmeans(
    rows: Tensor, clusters: int, rng: np.random.Generator, iterations: int = 50, spherical: bool = False
) -> tuple[Tensor, Tensor]:
    """K-means from seeds by greedy k-means++, which are chosen among a sample of at most 16 rows for each cluster.

    Args:
        clusters: their number; all rows become centroids where there are fewer of them.

    Returns:
        As `lloyd`.
    """
    count = min(clusters, len(rows))
    sampled = min(len(rows), SAMPLED * count)
    sample = rows
    if sampled < len(rows):
        sample = rows[torch.from_numpy(np.sort(rng.choice(len(rows), sampled, replace=False))).to(rows.device)]
    sample = sample if sample.dtype == torch.float64 else sample.float()
    draws = rng.random((count - 1, 2 + int(math.log(count))))
    seeds = choose_seeds(sample, int(rng.integers(sampled)), draws)
    return lloyd(rows, sample[seeds], iterations, spherical)
