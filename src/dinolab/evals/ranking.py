"""Rankings of a gallery for queries, and how good they are: average precision, precision, recall, global average precision.

N gallery rows, M queries, D features. A position counts from 0, the most similar row.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.features.neighbours import REFERENCES

MOST = 1 << 24  # similarities that are held at once, if a single query has no more


def rankings(gallery: Tensor, query: Tensor, device: torch.device | str = "cpu") -> Iterator[np.ndarray]:
    """For each query all gallery rows, int64 (N,), by falling cosine similarity; rows that are equally similar come in their order.

    Args:
        gallery: features (N, D), on any device.
        query: features (M, D).
        device: where it is computed.
    """
    for part in F.normalize(query.to(device).float(), dim=1).split(max(1, MOST // len(gallery))):
        blocks = (F.normalize(block.to(device).float(), dim=1) for block in gallery.split(REFERENCES))
        similarities = torch.cat([part @ block.T for block in blocks], 1)
        yield from similarities.argsort(dim=1, descending=True, stable=True).cpu().numpy()


def positions_of(order: np.ndarray, right: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Positions of the right answers, rising, in a ranking without the ignored rows.

    Args:
        order: gallery rows, best first, int (N,).
        right, ignored: gallery rows; a row that is in both is ignored.
    """
    kept = order[~np.isin(order, ignored)] if len(ignored) else order
    return np.flatnonzero(np.isin(kept, right))


def average_precision(positions: np.ndarray, right: int) -> float:
    """Average precision by trapezoids, as the Holidays and Oxford benchmarks define it; NaN without right answers.

    At each right answer the mean of the precision before it and with it is taken, so a single one at position 11 has 1 / 24.

    Args:
        positions: of the right answers that were found, rising.
        right: number of right answers there are, found or not.
    """
    if not right:
        return float("nan")
    found = np.arange(len(positions))
    before = np.where(positions > 0, found / np.maximum(positions, 1), 1.0)
    return float((before + (found + 1) / (positions + 1)).sum() / (2 * right))


def precision_at(positions: np.ndarray, k: int) -> float:
    """The share of right answers among the first k, as revisited Oxford and Paris define it; NaN without right answers.

    A query whose last right answer comes sooner is not asked for more: that answer's rank takes the place of k.
    """
    if not len(positions):
        return float("nan")
    k = min(k, int(positions[-1]) + 1)
    return float((positions < k).sum() / k)


def global_average_precision(right: np.ndarray, confidences: np.ndarray, known: np.ndarray) -> float:
    """GAP (the Met dataset, arXiv 2202.01747): all queries by falling confidence, precision at each right one, over the known ones.

    Args:
        right: whether each query's prediction is right, bool (M,).
        confidences: of the predictions, float (M,).
        known: whether the query shows something that the gallery has, bool (M,); no other can be right.
    """
    right = (right & known)[np.argsort(-confidences, kind="stable")]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float((precision * right).sum() / known.sum())


def vote_by_best(
    similarities: Tensor, labels: Tensor, classes: int, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Class and confidence of each query by the best neighbour of each class: the k-NN classifier of the Met dataset.

    The confidence is a softmax over all classes, in which those without a neighbour have a similarity of 0.

    Args:
        similarities, labels: of the k neighbours, (M, k).
        classes: number of classes in the gallery.
        temperature: multiplies the similarities.
    """
    weights = torch.zeros(len(labels), classes, dtype=torch.float64)
    weights.scatter_reduce_(1, labels, (temperature * similarities.double()).exp(), "amax")
    present = weights > 0
    total = weights.sum(1) + (~present).sum(1)
    best, predicted = weights.max(1)
    return predicted.numpy(), (best / total).numpy()
