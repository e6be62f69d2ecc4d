"""The nearest neighbours of many rows by cosine similarity, found in the lists of a k-means instead of among all rows.

N reference rows, M query rows, D features, L lists. A list holds the reference rows of one cluster. The queries of a list are compared,
in one matrix product, with the members of the lists whose centroids are nearest to its own.

The work is done in parts (see dinolab.curation.parts), by these steps:

    lists    centroids, float32 (L, D)
    rows     a part for each block of reference rows, sorted by list: "list" and "row" int32 (n,), "values" (n, D)
    queries  the same for the queries, where they are others
    graph    a part for several lists: "row" int32 (m,) of the queries, "neighbours" int32 (m, k), "similarities" (m, k)
    recall   "recall" float64 (1,)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.curation.kmeans import assign, lloyd
from dinolab.curation.parts import Part, Parts
from dinolab.features.store import Matrix
from dinolab.precision import quick_products

SCRATCH = ("rows", "queries")  # steps whose parts the graph is made of
EXACT = 20_000  # reference rows up to which all of them are compared
SAMPLED, ITERATIONS = 64, 10  # rows for each list, and iterations, of the k-means
SCORES = 1 << 25  # similarities that exist at once
SORTED, SEARCHED = (
    1 << 18,
    1 << 16,
)  # rows of a part, about: of those that are sorted, and of those whose neighbours are searched
MEASURED = 256  # queries whose neighbours are also searched among all rows
TOLERANCE = 1e-4  # of a similarity: two orders of summing, and half-precision rows


class Neighbours(NamedTuple):
    """The rows that were found for each query."""

    similarities: Tensor  # cosine, float32 (M, k), largest first; -inf where a query's lists held fewer rows
    indices: Tensor  # rows of the reference, int64 (M, k)
    recall: float  # the share of the true nearest rows that were found, measured on a sample of the queries


class Graph(NamedTuple):
    """The same in parts."""

    parts: Sequence[Part]  # of the step "graph"
    queries: int
    neighbours: int  # of each query
    recall: float

    def gather(self) -> Neighbours:
        """All parts in memory."""
        similarities = torch.full((self.queries, self.neighbours), -torch.inf)
        indices = torch.zeros(self.queries, self.neighbours, dtype=torch.int64)
        for part in self.parts:
            rows = torch.from_numpy(part["row"].astype(np.int64))
            similarities[rows] = torch.from_numpy(part["similarities"].astype(np.float32))
            indices[rows] = torch.from_numpy(part["neighbours"].astype(np.int64))
        return Neighbours(similarities, indices, self.recall)

    def pairs(self, least: float | np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Query rows and their neighbours, int32 (p,) each, whose similarity is above `least`; a number, or one for each query."""
        for part in self.parts:
            rows = part["row"]
            above = part["similarities"].astype(np.float32) > (least if isinstance(least, float) else least[rows, None])
            at, column = np.nonzero(above)
            yield rows[at], part["neighbours"][at, column]


def search(
    reference: Matrix,
    query: Matrix | None,
    k: int,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
    probes: int = 8,
    progress: bool = False,
) -> Neighbours:
    """Find the k reference rows that are most similar to each query row, and keep them in memory. See `build`."""
    return build(reference, query, k, rng, Parts(progress=progress), device, probes).gather()


@quick_products()
def build(
    reference: Matrix,
    query: Matrix | None,
    k: int,
    rng: np.random.Generator,
    parts: Parts,
    device: torch.device | str = "cpu",
    probes: int = 8,
) -> Graph:
    """Find the k reference rows that are most similar to each query row.

    Up to 20,000 reference rows are all compared. Beyond, there are as many lists as the square root of their number.

    Args:
        reference: features (N, D), of any floating type; they need not have length 1. A tensor is on the CPU.
        query: features (M, D); None searches for the neighbours of the reference rows, each without itself.
        k: number of neighbours; all rows where there are fewer.
        rng: draws the rows that the k-means learns from, and those that the recall is measured on.
        parts: where the parts are kept. In files, similarities are float16.
        probes: lists that are searched for each query.
    """
    own = query is None
    queries = reference if query is None else query
    k = min(k, len(reference) - own)
    if k < 1 or not len(queries):
        return Graph([], len(queries), max(k, 0), 1.0)
    learning, measuring = rng.spawn(2)
    lists = 1 if len(reference) <= EXACT else round(math.sqrt(len(reference)))
    count = max(1, min(lists, round(len(queries) / SEARCHED)))
    found = parts.find("graph", count)
    if found is None:
        learned = parts.one("lists", lambda: learn_lists(reference, lists, learning, device))
        centroids = torch.from_numpy(np.array(learned["centroids"])).to(device)

        def is_over() -> bool:
            return parts.find("graph", count) is not None

        members = sort_rows(reference, centroids, parts, SCRATCH[0], is_over)
        asking = members if query is None else sort_rows(query, centroids, parts, SCRATCH[1], is_over)
        near = (centroids @ centroids.T).topk(min(probes, lists)).indices.tolist()
        shares = np.array_split(np.arange(lists), count)
        kind = torch.float32 if parts.folder is None else torch.float16
        make = partial(search_lists, lists=members, asking=asking, near=near, k=k, own=own, device=device, kind=kind)
        found = parts.each("graph", count, lambda number: make(shares[number]), "nearest neighbours")
    if lists == 1:
        recall = 1.0
    else:
        measured = parts.one("recall", lambda: measure_recall(reference, queries, found, own, measuring, device))
        recall = float(measured["recall"][0])
    parts.remove(*SCRATCH)
    return Graph(found, len(queries), k, recall)


def learn_lists(reference: Matrix, lists: int, rng: np.random.Generator, device: torch.device | str) -> Part:
    """Centroids of length 1 by spherical k-means on a sample."""
    if lists == 1:
        return {"centroids": np.zeros((1, reference[:1].shape[1]), np.float32)}
    drawn = np.sort(rng.choice(len(reference), min(len(reference), SAMPLED * lists), replace=False))
    sample = F.normalize(reference[torch.from_numpy(drawn)].to(device).float(), dim=1)
    start = sample[torch.from_numpy(rng.choice(len(sample), lists, replace=False)).to(device)]
    return {"centroids": lloyd(sample, start, ITERATIONS, spherical=True)[0].cpu().numpy()}


class Lists:
    """Rows by their list. The rows themselves are in the parts of a step, each of which is sorted by list."""

    def __init__(self, parts: Sequence[Part], count: int) -> None:
        self.parts, self.count = parts, count

    @cached_property
    def ends(self) -> np.ndarray:
        """Where each list ends in each part, and the next one begins, int64 (parts, lists + 1)."""
        return np.stack([np.searchsorted(part["list"], np.arange(self.count + 1)) for part in self.parts])

    def members(self, number: int) -> tuple[Tensor, Tensor]:
        """The rows of a list in rising order, int32 (n,), and their features (n, D)."""
        rows, values = [], []
        for part, (start, stop) in zip(self.parts, self.ends[:, number : number + 2]):
            if stop > start:
                rows.append(np.array(part["row"][start:stop]))
                values.append(np.array(part["values"][start:stop]))
        if not rows:
            return torch.empty(0, dtype=torch.int32), torch.empty(0, 0)
        return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(values))


def sort_rows(rows: Matrix, centroids: Tensor, parts: Parts, name: str, is_over: Callable[[], bool]) -> Lists:
    """Sort rows by the centroid that is nearest to each, block by block, unless the graph is there."""

    def block(number: int) -> Part:
        start = number * SORTED
        values = rows[start : start + SORTED]
        # centroids of length 1: the length of a row does not matter
        of = torch.cat([assign(part.to(centroids.device).float(), centroids).cpu() for part in values.split(SEARCHED)])
        order = of.argsort(stable=True)
        return {"list": of[order].int().numpy(), "row": (start + order).int().numpy(), "values": values[order].numpy()}

    count = -(-len(rows) // SORTED)
    title = "lists for the search" if count > 1 else ""
    return Lists(parts.each(name, count, block, title, is_over), len(centroids))


def search_lists(
    numbers: np.ndarray, lists: Lists, asking: Lists, near: list[list[int]],
    k: int, own: bool, device: torch.device | str, kind: torch.dtype,
) -> Part:  # fmt: skip
    """The neighbours of all queries of some lists, as a part of the step "graph".

    Args:
        numbers: of the lists.
        near: for each list, the lists that are searched.
        own: whether query and reference are the same rows; a row is then no neighbour of itself.
        kind: type of the similarities.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = [
        (torch.empty(0, dtype=torch.int32), torch.empty(0, k, dtype=torch.int32), torch.empty(0, k, dtype=kind))
    ]
    for number in numbers:
        rows, queries = asking.members(number)
        if not len(rows):
            continue
        members = [lists.members(one) for one in near[number]]
        candidates = torch.cat([part for part, _ in members])
        block = torch.cat([F.normalize(part.to(device).float(), dim=1) for _, part in members if len(part)])
        itself = (
            sum(len(part) for part, _ in members[: near[number].index(number)])
            if own and number in near[number]
            else -1
        )
        step = max(1, SCORES // len(block))
        for some, values in zip(rows.split(step), queries.split(step)):
            scores = F.normalize(values.to(device).float(), dim=1) @ block.T
            if itself >= 0:  # the queries are these candidates, one after the other
                scores[:, itself : itself + len(some)].fill_diagonal_(-torch.inf)
                itself += len(some)
            best = scores.topk(min(k, len(block)))
            lacking = (0, k - best.values.shape[1])
            similarities = F.pad(best.values.cpu().to(kind), lacking, value=-torch.inf)
            found.append((some, F.pad(candidates[best.indices.cpu()], lacking), similarities))
    names = ("row", "neighbours", "similarities")
    return {name: torch.cat(several).numpy() for name, several in zip(names, zip(*found))}


def measure_recall(
    reference: Matrix, query: Matrix, found: Sequence[Part], own: bool, rng: np.random.Generator,
    device: torch.device | str,
) -> Part:  # fmt: skip
    """The share of the k nearest rows that were found, for a sample of the queries. Rows that are equally near count alike."""
    drawn = np.sort(rng.choice(len(query), min(MEASURED, len(query)), replace=False))
    rows = F.normalize(query[torch.from_numpy(drawn)].to(device).float(), dim=1)
    k = found[0]["neighbours"].shape[1]
    best = torch.empty(len(rows), 0, device=device)  # similarities of the nearest rows
    for start in range(0, len(reference), SEARCHED):
        block = F.normalize(reference[start : start + SEARCHED].to(device).float(), dim=1)
        best = torch.cat([best, rows @ block.T], 1)
        best = best.topk(min(k + own, best.shape[1])).values  # of a row's own neighbours, the first is the row itself
    similar = torch.full((len(rows), k), -torch.inf)
    for part in found:
        there = np.flatnonzero(np.isin(part["row"], drawn))
        neighbours = torch.from_numpy(part["neighbours"][there].astype(np.int64))
        theirs = F.normalize(reference[neighbours.flatten()].to(device).float(), dim=1).unflatten(0, neighbours.shape)
        at = torch.from_numpy(np.searchsorted(drawn, part["row"][there]))
        values = (theirs * rows[at.to(device), None]).sum(2).cpu()
        lacking = torch.from_numpy(np.isneginf(part["similarities"][there]))
        similar[at] = values.masked_fill(lacking, -torch.inf)
    return {"recall": np.array([(similar >= best[:, -1:].cpu() - TOLERANCE).double().mean()])}
