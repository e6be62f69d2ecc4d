"""The nearest neighbours of many rows by cosine similarity, found in the lists of a k-means instead of among all rows.

N reference rows, M query rows, D features. A list holds the reference rows of one cluster. The queries of a list are compared, in one
matrix product, with the members of the lists whose centroids are nearest to its own.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.curation.kmeans import assign, lloyd
from dinolab.features.neighbours import nearest
from dinolab.progress import progress_bar

EXACT = 20_000  # reference rows up to which all of them are compared
SAMPLED, ITERATIONS = 64, 10  # rows for each list, and iterations, of the k-means
SCORES = 1 << 25  # similarities that exist at once
MEASURED = 256  # queries whose neighbours are also searched among all rows
TOLERANCE = 1e-4  # of a similarity: two orders of summing, and half-precision rows


class Neighbours(NamedTuple):
    """The rows that were found for each query."""

    similarities: Tensor  # cosine, float32 (M, k), largest first; -inf where a query's lists held fewer rows
    indices: Tensor  # rows of the reference, int64 (M, k)
    recall: float  # the share of the true nearest rows that were found, measured on a sample of the queries


def search(
    reference: Tensor,
    query: Tensor | None,
    k: int,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
    probes: int = 8,
    progress: bool = False,
) -> Neighbours:
    """Find the k reference rows that are most similar to each query row.

    Up to 20,000 reference rows are all compared. Beyond, there are as many lists as the square root of their number.

    Args:
        reference: features (N, D) on the CPU, of any floating type; they need not have length 1.
        query: features (M, D); None searches for the neighbours of the reference rows, each without itself.
        k: number of neighbours; all rows where there are fewer.
        rng: draws the rows that the k-means learns from, and those that the recall is measured on.
        probes: lists that are searched for each query.
    """
    own = query is None
    queries = reference if query is None else query
    k = min(k, len(reference) - own)
    if k < 1 or not len(queries):
        empty = torch.empty(len(queries), 0)
        return Neighbours(empty, empty.long(), 1.0)
    if len(reference) <= EXACT:
        found = nearest(reference, queries.to(device), k + own)
        values, where = (part.cpu() for part in found)
        return Neighbours(*(without_self(values, where, k) if own else (values, where)), 1.0)
    centroids = learn_lists(reference, rng, device)
    of_reference = assign_all(reference, centroids)
    of_query = of_reference if query is None else assign_all(query, centroids)
    found = search_lists(
        reference, of_reference, queries, of_query, centroids, k, own, min(probes, len(centroids)), progress
    )
    return Neighbours(*found, measure_recall(reference, queries, found[0], own, rng, device))


def without_self(values: Tensor, where: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of k + 1 neighbours of each row, the k others: the row itself goes, or the last one where copies have displaced it."""
    others = where != torch.arange(len(where))[:, None]
    others[others.all(1), -1] = False
    return values[others].view(-1, k), where[others].view(-1, k)


def learn_lists(reference: Tensor, rng: np.random.Generator, device: torch.device | str) -> Tensor:
    """Centroids of length 1, float32 (lists, D), by spherical k-means on a sample."""
    lists = round(math.sqrt(len(reference)))
    drawn = np.sort(rng.choice(len(reference), min(len(reference), SAMPLED * lists), replace=False))
    sample = F.normalize(reference[torch.from_numpy(drawn)].to(device).float(), dim=1)
    start = sample[torch.from_numpy(rng.choice(len(sample), lists, replace=False)).to(device)]
    return lloyd(sample, start, ITERATIONS, spherical=True)[0]


def assign_all(rows: Tensor, centroids: Tensor) -> Tensor:
    """The list of each row, int64 (rows,), on the CPU. Centroids of length 1: the length of a row does not matter."""
    parts = rows.split(max(1, SCORES // len(centroids)))
    return torch.cat([assign(part.to(centroids.device).float(), centroids).cpu() for part in parts])


def search_lists(
    reference: Tensor, of_reference: Tensor, query: Tensor, of_query: Tensor, centroids: Tensor,
    k: int, own: bool, probes: int, progress: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Similarities float32 (M, k) and rows of the reference int64 (M, k), with all lists given.

    Args:
        of_reference, of_query: the list of each row, int64 (N,) and (M,).
        own: whether query and reference are the same rows; a row is then no neighbour of itself.
    """
    device, lists = centroids.device, len(centroids)
    near = (centroids @ centroids.T).topk(probes).indices.cpu()
    members = of_reference.argsort(stable=True).split(torch.bincount(of_reference, minlength=lists).tolist())
    askers = of_query.argsort(stable=True).split(torch.bincount(of_query, minlength=lists).tolist())
    similarities = torch.full((len(query), k), -torch.inf)
    indices = torch.zeros(len(query), k, dtype=torch.int64)
    with progress_bar("nearest neighbours", len(query), progress) as advance:
        for number, asking in enumerate(askers):
            if not len(asking):
                continue
            candidates = torch.cat([members[one] for one in near[number].tolist()])
            block = F.normalize(reference[candidates].to(device).float(), dim=1)
            for rows in asking.split(max(1, SCORES // len(block))):
                scores = F.normalize(query[rows].to(device).float(), dim=1) @ block.T
                if own:
                    scores.masked_fill_(rows[:, None].to(device) == candidates.to(device), -torch.inf)
                best = scores.topk(min(k, len(block)))
                columns = best.indices.shape[1]
                similarities[rows, :columns] = best.values.cpu()
                indices[rows, :columns] = candidates[best.indices.cpu()]
            advance(len(asking))
    return similarities, indices


def measure_recall(
    reference: Tensor, query: Tensor, found: Tensor, own: bool, rng: np.random.Generator, device: torch.device | str
) -> float:
    """The share of the k nearest rows that were found, for a sample of the queries. Rows that are equally near count alike."""
    rows = torch.from_numpy(np.sort(rng.choice(len(query), min(MEASURED, len(query)), replace=False)))
    exact = nearest(reference, query[rows].to(device), found.shape[1] + own)[0].cpu()
    last = exact[:, -1:]  # of a row's own neighbours, the first is the row itself
    return float((found[rows] >= last - TOLERANCE).double().mean())
