"""Hierarchical k-means with resampling, and balanced sampling from its tree (Vo et al. 2024, arXiv 2405.15613, section 3).

The clusters of the first level hold rows, those of each further level hold the clusters of the level below. N rows, D features.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.curation.kmeans import assign, kmeans
from dinolab.curation.parts import Part, Parts
from dinolab.features.store import Matrix
from dinolab.precision import quick_products

ASSIGNED = 1 << 18  # rows of a part
ROWS = 1 << 16  # rows that are read at once


@dataclass(frozen=True)
class Clustering:
    """Clustering rows are clustered."""

    resamplings: int = 9  # times that a level is clustered again
    iterations: int = 50  # of each k-means, at most
    learned: int = 256  # rows for each centroid from which centroids are learned, at most; they are drawn at random
    spherical: bool = False  # whether centroids are scaled to length 1; rows then have length 1, too


USUAL = Clustering()


class Level(NamedTuple):
    """The clusters of one level."""

    centroids: Tensor  # (K, D)
    clusters: Tensor  # int64, the cluster of each row, or of each cluster of the level below
    squares: Tensor | None = None  # of the distance of each of them to its centroid


def build_tree(
    rows: Matrix,
    clusters: list[int],
    closest: list[int],
    rng: np.random.Generator,
    how: Clustering = USUAL,
    parts: Parts | None = None,
) -> list[Level]:
    """Cluster the rows, then the centroids of that clustering, and so on.

    Plain k-means puts most centroids where most rows lie. So each level is clustered again on the rows that are closest to the
    centroids, the same number from each cluster, in which dense regions count less; this is repeated `how.resamplings` times.

    Args:
        rows: (N, D).
        clusters: number of clusters of each level, the first level first.
        closest: how many rows are taken from each cluster of each level; 1 clusters that level only once.
        parts: where the parts of the first level are kept, see `cluster`; by default in memory.

    Returns:
        The levels. Centroids are those of the rows that were taken last; the clusters are of all rows.
    """
    levels: list[Level] = []
    for count, taken in zip(clusters, closest, strict=True):
        below = levels[-1].centroids if levels else rows
        kept = Parts() if levels or parts is None else parts
        levels.append(cluster(below, count, rng, kept, how if taken > 1 else replace(how, resamplings=0), taken))
    return levels


@quick_products()
def cluster(
    rows: Matrix,
    count: int,
    rng: np.random.Generator,
    parts: Parts,
    how: Clustering,
    taken: int = 1,
) -> Level:
    """One level, see `build_tree`.

    The steps are "learned-0" (centroids), "assigned-0" (a part for each block of rows: their "cluster", and the "square" of the
    distance to its centroid), "learned-1" and so on, one more for each resampling.

    Args:
        taken: rows that are taken from each cluster for the next clustering.
    """
    chosen = None  # rows that were taken
    blocks = max(1, -(-len(rows) // ASSIGNED))
    for step, own in enumerate(rng.spawn(how.resamplings + 1)):
        learn = partial(learn_centroids, rows, chosen, count, own, how)
        found = parts.one(f"learned-{step}", learn)["centroids"]
        centroids = torch.from_numpy(np.array(found)).to(device_of(rows))
        title = "clusters" if blocks > 1 else ""
        assigned = parts.each(f"assigned-{step}", blocks, partial(assign_block, rows, centroids), title)
        of = torch.from_numpy(np.concatenate([part["cluster"] for part in assigned]).astype(np.int64))
        squares = torch.from_numpy(np.concatenate([part["square"] for part in assigned]))
        if step < how.resamplings:
            chosen = sort_by(squares, of, len(centroids), taken)
    return Level(centroids, of.to(centroids.device), squares)


def device_of(rows: Matrix) -> torch.device:
    """Where rows are when they have been read."""
    return rows.device if isinstance(rows, Tensor) else rows[:1].device


def learn_centroids(rows: Matrix, chosen: Tensor | None, count: int, rng: np.random.Generator, how: Clustering) -> Part:
    """Centroids of rows, or of those that were chosen, int64 (n,)."""
    among = len(rows) if chosen is None else len(chosen)
    if among > how.learned * count:
        drawn = torch.from_numpy(np.sort(rng.choice(among, how.learned * count, replace=False)))
        chosen = drawn if chosen is None else chosen[drawn]
    sample = rows[:] if chosen is None else rows[chosen.to(device_of(rows))]
    return {"centroids": kmeans(sample, count, rng, how.iterations, how.spherical)[0].cpu().numpy()}


def assign_block(rows: Matrix, centroids: Tensor, number: int) -> Part:
    """The clusters of a block of rows."""
    clusters, squares = [], []
    stop = min(len(rows), (number + 1) * ASSIGNED)
    for start in range(number * ASSIGNED, stop, ROWS):
        block = rows[start : min(start + ROWS, stop)]
        of = assign(block, centroids)
        clusters.append(of.int().cpu())
        squares.append(distances(block, centroids, of).cpu())
    return {"cluster": torch.cat(clusters).numpy(), "square": torch.cat(squares).numpy()}


def distances(rows: Tensor, centroids: Tensor, clusters: Tensor) -> Tensor:
    """The squared distance of each row to the centroid of its cluster, (N,)."""
    parts = zip(rows.split(ROWS), clusters.split(ROWS))
    return torch.cat([(part.to(centroids.dtype) - centroids[of]).square().sum(1) for part, of in parts])


def in_order(rows: Tensor, centroids: Tensor, clusters: Tensor, most: int) -> Tensor:
    """The `most` rows of each cluster that are closest to its centroid, int64, cluster by cluster, the closest first."""
    return sort_by(distances(rows, centroids, clusters), clusters, len(centroids), most)


def sort_by(squares: Tensor, clusters: Tensor, count: int, most: int) -> Tensor:
    """The same for `count` clusters, by the squared distance of each row to its centroid, (N,)."""
    order = squares.argsort(stable=True)
    order = order[clusters[order].argsort(stable=True)]
    counts = torch.bincount(clusters, minlength=count)
    first = (counts.cumsum(0) - counts)[clusters[order]]
    return order[torch.arange(len(order), device=order.device) - first < most]


def share(sizes: np.ndarray, target: int, rng: np.random.Generator) -> np.ndarray:
    """Clustering many to draw from each of several clusters, so that the counts are as even as the sizes allow, int64 (K,).

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
