"""The nearest neighbours of many rows by cosine similarity, found in the lists of a k-means instead of among all rows.

N reference rows, M query rows, D features, L lists. There are two ways to search: among full rows (dinolab.curation.lists), and among
compressed ones, of which the best are compared again in full (dinolab.curation.compressed).

The work is done in parts (see dinolab.curation.parts), by these steps:

    lists    centroids, float32 (L, D)
    rows     a part for each block of reference rows, sorted by list: "list" and "row" int32 (n,), "values" (n, D)
    queries  the same for the queries, where they are others
    graph    a part for several lists: "row" int32 (m,) of the queries, "neighbours" int32 (m, k), "similarities" (m, k)
    recall   "recall" float64 (1,)
"""

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.curation import lists
from dinolab.curation.compressed import among_codes, check_faiss
from dinolab.curation.lists import USUAL, How
from dinolab.curation.parts import Part, Parts
from dinolab.features.store import Matrix
from dinolab.precision import quick_products

SCRATCH = ("rows", "queries", "codes")  # steps whose parts the graph is made of
EXACT = 20_000  # reference rows up to which all of them are compared
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
    how: How = USUAL,
    progress: bool = False,
    scratch: Path | None = None,
) -> Neighbours:
    """Find the k reference rows that are most similar to each query row, and keep them in memory. See `build`.

    Args:
        scratch: a folder for what does not fit into memory, which is emptied before and removed afterwards; without one, all sorted
            rows are in memory.
    """
    with emptied(scratch):
        return build(reference, query, k, rng, Parts(scratch, progress), replace(how, kind=torch.float32)).gather()


@contextmanager
def emptied(folder: Path | None) -> Iterator[None]:
    """Inside the block, the folder holds nothing that was there before; afterwards it is gone."""
    try:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        yield
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@quick_products()
def build(
    reference: Matrix,
    query: Matrix | None,
    k: int,
    rng: np.random.Generator,
    parts: Parts,
    how: How = USUAL,
) -> Graph:
    """Find the k reference rows that are most similar to each query row.

    Up to 20,000 reference rows are all compared. Beyond, there are as many lists as the square root of their number.

    Args:
        reference: features (N, D), of any floating type; they need not have length 1. A tensor is on the CPU.
        query: features (M, D); None searches for the neighbours of the reference rows, each without itself.
        k: number of neighbours; all rows where there are fewer.
        rng: draws the rows that the k-means learns from, and those that the recall is measured on.
        parts: where the parts are kept.

    Raises:
        UserError: the package faiss is needed and not there.
    """
    if how.index == "faiss":
        check_faiss()
    own = query is None
    queries = reference if query is None else query
    k = min(k, len(reference) - own)
    if k < 1 or not len(queries):
        return Graph([], len(queries), max(k, 0), 1.0)
    learning, measuring = rng.spawn(2)
    many = 1 if len(reference) <= EXACT else round(math.sqrt(len(reference)))
    count = max(1, min(many, round(len(queries) / lists.SEARCHED)))
    learned = parts.one("lists", lambda: lists.learn_lists(reference, many, learning, how.device))
    centroids = torch.from_numpy(np.array(learned["centroids"])).to(how.device)
    wanted = lists.Search(reference, query, k, how, centroids, parts, lambda: parts.find("graph", count) is not None)
    found = parts.find("graph", count) or make_graph(wanted, count, learning)
    recall = 1.0
    if many > 1:
        measured = parts.one("recall", lambda: measure_recall(reference, queries, found, own, measuring, how.device))
        recall = float(measured["recall"][0])
    parts.remove(*SCRATCH)
    return Graph(found, len(queries), k, recall)


def make_graph(wanted: lists.Search, count: int, rng: np.random.Generator) -> Sequence[Part]:
    """The parts of the step "graph", `count` of them, each for some of the lists; `rng` draws the rows that a codebook learns from."""
    many = len(wanted.centroids)
    find = among_codes(wanted, rng) if wanted.how.index == "faiss" and many > 1 else lists.among_rows(wanted)
    shares = np.array_split(np.arange(many), count)
    return wanted.parts.each("graph", count, lambda number: find(shares[number]), "nearest neighbours")


def measure_recall(
    reference: Matrix, query: Matrix, found: Sequence[Part], own: bool, rng: np.random.Generator,
    device: torch.device | str,
) -> Part:  # fmt: skip
    """The share of the k nearest rows that were found, for a sample of the queries. Rows that are equally near count alike."""
    drawn = np.sort(rng.choice(len(query), min(MEASURED, len(query)), replace=False))
    rows = F.normalize(query[torch.from_numpy(drawn)].to(device).float(), dim=1)
    k = found[0]["neighbours"].shape[1]
    best = torch.empty(len(rows), 0, device=device)  # similarities of the nearest rows
    for start in range(0, len(reference), lists.SEARCHED):
        block = F.normalize(reference[start : start + lists.SEARCHED].to(device).float(), dim=1)
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
