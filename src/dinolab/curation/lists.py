"""Rows in the lists of a k-means, and the search among the full rows of these lists.

N reference rows, M query rows, D features, L lists. A list holds the rows of one cluster. The queries of a list are compared, in one
matrix product, with the members of the lists whose centroids are nearest to its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.curation.kmeans import assign, lloyd
from dinolab.curation.parts import Part, Parts
from dinolab.features.store import Matrix

SAMPLED, ITERATIONS = 64, 10  # rows for each list, and iterations, of the k-means
SCORES = 1 << 25  # similarities that exist at once
SORTED = 1 << 18  # rows of a part of those that are sorted by list
SEARCHED = 1 << 16  # rows of a part whose neighbours are searched, about


def learn_lists(reference: Matrix, lists: int, rng: np.random.Generator, device: torch.device | str) -> Part:
    """Centroids of length 1 by spherical k-means on a sample."""
    if lists == 1:
        return {"centroids": np.zeros((1, reference[:1].shape[1]), np.float32)}
    drawn = np.sort(rng.choice(len(reference), min(len(reference), SAMPLED * lists), replace=False))
    sample = F.normalize(reference[torch.from_numpy(drawn)].to(device).float(), dim=1)
    start = sample[torch.from_numpy(rng.choice(len(sample), lists, replace=False)).to(device)]
    return {"centroids": lloyd(sample, start, ITERATIONS, spherical=True)[0].cpu().numpy()}


@dataclass(frozen=True)
class How:
    """How neighbours are searched."""

    device: torch.device | str = "cpu"  # that computes similarities
    probes: int = 8  # lists that are searched for each query, at most
    index: str = "lists"  # "lists": the full rows of the lists are searched; "faiss": compressed rows in memory
    kind: torch.dtype = torch.float16  # number type in which similarities are kept


USUAL = How()


class Search(NamedTuple):
    """What is searched for, and where its parts are kept."""

    reference: Matrix
    query: Matrix | None  # None: the reference rows, each of which is then no neighbour of itself
    k: int  # neighbours of each query
    how: How
    centroids: Tensor  # of the lists, of length 1, float32 (L, D), on the device that computes
    parts: Parts
    is_over: Callable[[], bool]  # whether the graph is there, so that other parts are no longer needed


Find = Callable[[np.ndarray], Part]
"""Finds the neighbours of all queries of the lists with these numbers, as a part of the step "graph"."""


def among_rows(search: Search) -> Find:
    """The search among full rows; writes the parts "rows" and "queries"."""
    centroids = search.centroids
    members = sort_rows(search.reference, search, "rows")
    asking = members if search.query is None else sort_rows(search.query, search, "queries")
    near = (centroids @ centroids.T).topk(min(search.how.probes, len(centroids))).indices.tolist()
    return partial(search_lists, search=search, lists=members, asking=asking, near=near)


def empty_part(k: int, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of no queries, with their neighbours and similarities."""
    return torch.empty(0, dtype=torch.int32), torch.empty(0, k, dtype=torch.int32), torch.empty(0, k, dtype=kind)


def as_part(found: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Part:
    """Several such groups as a part of the step "graph"."""
    names = ("row", "neighbours", "similarities")
    return {name: torch.cat(several).numpy() for name, several in zip(names, zip(*found))}


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


def sort_rows(
    rows: Matrix, search: Search, name: str, keep: Callable[[Tensor, Tensor], Tensor] = lambda values, of: values
) -> Lists:
    """Sort rows by the centroid that is nearest to each, block by block, unless the graph is there.

    Args:
        name: of the step.
        keep: what is kept of rows (n, D) of the lists int64 (n,), as a matrix (n, d); by default, the rows.
    """
    centroids = search.centroids

    def block(number: int) -> Part:
        start = number * SORTED
        values = rows[start : start + SORTED]
        # centroids of length 1: the length of a row does not matter
        of = torch.cat([assign(part.to(centroids.device).float(), centroids).cpu() for part in values.split(SEARCHED)])
        order = of.argsort(stable=True)
        pairs = zip(values[order].split(SEARCHED), of[order].split(SEARCHED))
        kept = torch.cat([keep(some, theirs) for some, theirs in pairs])
        return {"list": of[order].int().numpy(), "row": (start + order).int().numpy(), "values": kept.numpy()}

    count = -(-len(rows) // SORTED)
    title = "lists for the search" if count > 1 else ""
    return Lists(search.parts.each(name, count, block, title, search.is_over), len(centroids))


def search_lists(numbers: np.ndarray, search: Search, lists: Lists, asking: Lists, near: list[list[int]]) -> Part:
    """The neighbours of all queries of some lists, as a part of the step "graph".

    Args:
        numbers: of the lists.
        lists: the reference rows.
        asking: the queries.
        near: for each list, the lists that are searched.
    """
    k, kind, device = search.k, search.how.kind, search.centroids.device
    found = [empty_part(k, kind)]
    for number in numbers:
        rows, queries = asking.members(number)
        if not len(rows):
            continue
        members = [lists.members(one) for one in near[number]]
        candidates = torch.cat([part for part, _ in members])
        block = torch.cat([F.normalize(part.to(device).float(), dim=1) for _, part in members if len(part)])
        itself = (
            sum(len(part) for part, _ in members[: near[number].index(number)])
            if search.query is None and number in near[number]
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
    return as_part(found)
