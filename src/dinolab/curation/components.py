"""Groups of images that are joined by similarity, directly or through others. N images."""

import logging
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dinolab.curation.graph import Graph
from dinolab.errors import counted

log = logging.getLogger(__name__)
PAIRS = 1 << 24  # that are joined at once
STEP = 0.05  # by which the threshold rises in a group that is too large


def join(count: int, pairs: np.ndarray) -> np.ndarray:
    """The connected component of each of `count` images, int (count,), joined by pairs int (P, 2)."""
    return join_all(count, [(pairs[:, 0], pairs[:, 1])])


def join_all(count: int, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The same for pairs that come in parts: both ends of each pair, int (p,) each. Few of them are in memory at once."""
    groups = np.arange(count, dtype=np.int32 if count < 1 << 31 else np.int64)
    ends: list[tuple[np.ndarray, np.ndarray]] = []

    def merge() -> np.ndarray:
        a, b = (np.concatenate(side) for side in zip(*ends))
        graph = coo_array((np.ones(len(a), bool), (groups[a], groups[b])), (count, count))
        return connected_components(graph, directed=False)[1][groups]

    for one in pairs:
        ends.append(one)
        if sum(len(a) for a, _ in ends) > PAIRS:
            groups = merge()
            ends = []
    return merge() if ends else groups


class Components(NamedTuple):
    """Groups of images that are joined."""

    group: np.ndarray  # int (N,)
    cut: np.ndarray  # int64 (2,): images in groups that were too large, and the number of these groups

    def warn(self, most: int, what: str) -> "Components":
        """Say so where groups were cut; `what` says what they are."""
        images, chains = self.cut.tolist()
        if chains:
            log.warning(
                "%s: %s images hang together in %s of more than %s each; they are cut at higher thresholds. Look at them: the "
                "encoder may find these images alike, and a higher threshold may be right for all",
                what, f"{images:,}", counted(chains, "chain"), f"{most:,}",
            )  # fmt: skip
        return self


def components(found: Graph, threshold: float, most: int) -> Components:
    """Groups of images whose similarity to a neighbour lies above a threshold.

    A chain of images that are each like the next can join very many that are not alike. A group of more than `most` images is cut
    by a threshold that rises by 0.05, until its parts are small enough or it reaches 1.
    """
    groups = join_all(found.queries, found.pairs(threshold))
    large = np.bincount(groups)[groups] > most
    cut = np.array([large.sum(), len(np.unique(groups[large]))])
    least = np.full(found.queries, threshold, np.float32)  # of each image, for a pair to count
    while large.any() and threshold < 1:
        threshold += STEP
        least[large] = threshold
        groups = join_all(found.queries, found.pairs(least))
        large &= np.bincount(groups)[groups] > most
    return Components(groups, cut)
