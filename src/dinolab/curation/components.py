"""Groups of images that are joined by similarity, directly or through others. N images."""

import logging

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dinolab.curation.graph import Neighbours

log = logging.getLogger(__name__)
STEP = 0.05  # by which the threshold rises in a group that is too large


def join(count: int, pairs: np.ndarray) -> np.ndarray:
    """The connected component of each of `count` images, int (count,), joined by pairs int64 (P, 2)."""
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    return connected_components(graph, directed=False)[1]


def components(found: Neighbours, threshold: float, most: int, what: str) -> np.ndarray:
    """Groups of images whose similarity to a neighbour lies above a threshold, int (N,).

    A chain of images that are each like the next can join very many that are not alike. A group of more than `most` images is cut
    by a threshold that rises by 0.05, until its parts are small enough or it reaches 1; a warning says how many images that concerns.

    Args:
        what: what the groups are, for the warning.
    """
    similarities = found.similarities.numpy()
    row, column = np.nonzero(similarities > threshold)
    pairs = np.stack([row, found.indices.numpy()[row, column]], 1)
    values = similarities[row, column]
    groups = join(len(similarities), pairs)
    large = np.bincount(groups)[groups] > most
    if large.any():
        log.warning(
            "%s: %s images hang together in %d chains of more than %s each; they are cut at higher thresholds. Look at them: the "
            "encoder may find these images alike, and a higher threshold may be right for all",
            what, f"{large.sum():,}", len(np.unique(groups[large])), f"{most:,}",
        )  # fmt: skip
    while large.any() and threshold < 1:
        threshold += STEP
        holds = ~large[pairs[:, 0]] | (values > threshold)
        pairs, values = pairs[holds], values[holds]
        groups = join(len(similarities), pairs)
        large &= np.bincount(groups)[groups] > most
    return groups
