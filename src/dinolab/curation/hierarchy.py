"""Hierarchical k-means with resampling, and balanced sampling from its tree (Vo et al. 2024, arXiv 2405.15613, section 3).

The clusters of the first level hold rows, those of each further level hold the clusters of the level below. N rows, D features.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.curation.kmeans import assign, kmeans


class Level(NamedTuple):
    """The clusters of one level."""

    centroids: Tensor  # (K, D)
    clusters: Tensor  # int64, the cluster of each row, or of each cluster of the level below


def build_tree(
    rows: Tensor,
    clusters: list[int],
    closest: list[int],
    rng: np.random.Generator,
    resamplings: int = 9,
    iterations: int = 50,
) -> list[Level]:
    """Cluster the rows, then the centroids of that clustering, and so on.

    Plain k-means puts most centroids where most rows lie. So each level is clustered again on the rows that are closest to the
    centroids, the same number from each cluster, in which dense regions count less; this is repeated `resamplings` times.

    Args:
        rows: (N, D).
        clusters: number of clusters of each level, the first level first.
        closest: how many rows are taken from each cluster of each level; 1 clusters that level only once.

    Returns:
        The levels. Centroids are those of the rows that were taken last; the clusters are of all rows.
    """
    levels: list[Level] = []
    for count, taken in zip(clusters, closest, strict=True):
        below = levels[-1].centroids if levels else rows
        centroids, of = kmeans(below, count, rng, iterations)
        for _ in range(resamplings if taken > 1 else 0):
            chosen = in_order(below, centroids, of, taken)
            centroids, _ = kmeans(below[chosen], count, rng, iterations)
            of = assign(below, centroids)
        levels.append(Level(centroids, of))
    return levels


def in_order(rows: Tensor, centroids: Tensor, clusters: Tensor, most: int) -> Tensor:
    """The `most` rows of each cluster that are closest to its centroid, int64, cluster by cluster, the closest first."""
    parts = zip(rows.split(1 << 16), clusters.split(1 << 16))
    distances = torch.cat([(part.to(centroids.dtype) - centroids[of]).square().sum(1) for part, of in parts])
    order = distances.argsort(stable=True)
    order = order[clusters[order].argsort(stable=True)]
    counts = torch.bincount(clusters, minlength=len(centroids))
    first = (counts.cumsum(0) - counts)[clusters[order]]
    return order[torch.arange(len(order), device=order.device) - first < most]


def share(sizes: np.ndarray, target: int, rng: np.random.Generator) -> np.ndarray:
    """How many to draw from each of several clusters, so that the counts are as even as the sizes allow, int64 (K,).

    The counts are min(size, x) for the largest whole x that does not exceed the target. What is missing then goes one by one to
    clusters that are larger than x, drawn at random.

    Args:
        sizes: int (K,).
        target: their sum; all of each cluster where there is not as much.
    """
    ordered = np.sort(sizes)
    before = np.concatenate([[0], np.cumsum(ordered)[:-1]])  # of all smaller clusters, which are taken whole
    reached = before + ordered * np.arange(len(sizes), 0, -1)  # with x = this cluster's size
    at = int(np.searchsorted(reached, target, side="right"))
    if at == len(sizes):
        return sizes.astype(np.int64)
    cut = int((target - before[at]) // (len(sizes) - at))
    counts = np.minimum(sizes, cut).astype(np.int64)
    counts[rng.choice(np.flatnonzero(sizes > cut), target - int(counts.sum()), replace=False)] += 1
    return counts


def sample_tree(levels: list[Level], target: int, rng: np.random.Generator, by: str = "random") -> np.ndarray:
    """Draw rows so that the clusters of the highest level count alike, then those within each, and so on down, int64, in rising order.

    Args:
        levels: of the tree, see `build_tree`.
        target: rows to draw; all of them where there are not more.
        by: "random" draws from a cluster of the first level at random, "closest" takes its rows in their order, see `in_order`.
    """
    rows_of = group(levels[0].clusters, len(levels[0].centroids))
    sizes = [np.array([len(rows) for rows in rows_of])]  # in rows, of the clusters of each level
    for level in levels[1:]:
        weights = sizes[-1].astype(np.float64)
        sizes.append(np.bincount(level.clusters.cpu().numpy(), weights, len(level.centroids)).astype(np.int64))
    counts = share(sizes[-1], target, rng)
    for number in range(len(levels) - 1, 0, -1):
        children = group(levels[number].clusters, len(levels[number].centroids))
        below = np.zeros(len(sizes[number - 1]), np.int64)
        for cluster, own in enumerate(children):
            if counts[cluster]:
                below[own] = share(sizes[number - 1][own], int(counts[cluster]), rng)
        counts = below
    drawn = [
        rows[:count] if by == "closest" else rng.choice(rows, count, replace=False)
        for rows, count in zip(rows_of, counts)
        if count
    ]
    return np.sort(np.concatenate([*drawn, np.empty(0, np.int64)]).astype(np.int64))


def group(clusters: Tensor, count: int) -> list[np.ndarray]:
    """The members of each cluster, in rising order."""
    order = clusters.argsort(stable=True).cpu().numpy()
    sizes = torch.bincount(clusters, minlength=count).cpu().numpy()
    return np.split(order, np.cumsum(sizes)[:-1])
