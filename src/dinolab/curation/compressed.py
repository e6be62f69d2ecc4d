"""The search among compressed rows that are held in memory: faiss's IVF-PQ, the best of which are compared again in full.

A row is scaled to length 1, the centroid of its list is taken off, and each pair of the features that are left becomes 4 bits: the
nearest of 16 pairs of numbers (product quantisation, Jegou et al. 2011). So a row of D features takes D / 4 bytes. The rows that seem
nearest by their codes are read in full, and their exact similarities choose the neighbours.

N reference rows, M query rows, D features, L lists. Steps beside those of dinolab.curation.graph:

    codebook  "values" float32 (ceil(D / 2), 16, 2), and again in place of "rows" and "queries":
    codes     a part for each block of reference rows, sorted by list; "values" are codes uint8 (n, ceil(D / 4))
    queries   the same for the queries, where they are others; "values" are left empty
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.curation.lists import Find, Lists, Search, as_part, empty_part, sort_rows
from dinolab.curation.parts import Part
from dinolab.errors import UserError
from dinolab.features.store import Matrix

PAIR, BITS = 2, 4  # features of a code, and its bits: with 4, faiss looks up 32 codes at once
LEARNED = 1 << 14  # rows that the codebook is learned from, at most
ITERATIONS = 10  # of the k-means of each pair
TIMES, MORE = 4, 64  # rows that are compared in full for each query: so many times the neighbours, and so many more
ASKED = 4096  # queries at once


def check_faiss() -> Any:
    """The package faiss, with as many threads as torch has. Raises UserError where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UserError("index=faiss needs the package faiss: pip install 'dinolab[faiss]'") from error
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def among_codes(search: Search, rng: np.random.Generator) -> Find:
    """The search among compressed rows; writes the parts "codebook", "codes" and "queries"."""
    codebook = search.parts.one("codebook", lambda: learn_codebook(search, rng.spawn(1)[0]))
    coder = quantizer(search.centroids.shape[1], np.array(codebook["values"]))

    def encode(values: Tensor, of: Tensor) -> Tensor:
        return torch.from_numpy(coder.compute_codes(residuals(values, search.centroids, of).numpy()))

    codes = sort_rows(search.reference, search, "codes", encode)
    asking = (
        codes if search.query is None else sort_rows(search.query, search, "queries", lambda values, _: values[:, :0])
    )
    return Codes(search, coder, codes, asking).find


def learn_codebook(search: Search, rng: np.random.Generator) -> Part:
    """16 numbers for each pair of features, learned from a sample."""
    drawn = np.sort(rng.choice(len(search.reference), min(len(search.reference), LEARNED), replace=False))
    rows = search.reference[torch.from_numpy(drawn)]
    of = (F.normalize(rows.to(search.centroids.device).float(), dim=1) @ search.centroids.T).argmax(1).cpu()
    coder = quantizer(rows.shape[1])
    coder.train(residuals(rows, search.centroids, of).numpy())
    return {"values": check_faiss().vector_to_array(coder.centroids).reshape(coder.M, 1 << BITS, PAIR)}


def quantizer(width: int, values: np.ndarray | None = None) -> Any:
    """A faiss.ProductQuantizer of rows of `width` features, with a codebook or without one."""
    faiss = check_faiss()
    coder = faiss.ProductQuantizer(width + width % PAIR, -(-width // PAIR), BITS)
    coder.cp.niter, coder.cp.min_points_per_centroid, coder.cp.max_points_per_centroid = ITERATIONS, 1, LEARNED
    if values is not None:
        faiss.copy_array_to_vector(values.ravel(), coder.centroids)
    return coder


def scaled(rows: Tensor) -> Tensor:
    """Rows of length 1, float32, with a zero beside them where the number of features is odd."""
    return F.pad(F.normalize(rows.cpu().float(), dim=1), (0, rows.shape[1] % PAIR))


def residuals(rows: Tensor, centroids: Tensor, of: Tensor) -> Tensor:
    """What is left of rows (n, D) without the centroids of their lists, float32."""
    return scaled(rows) - scaled(centroids)[of]


class Codes:
    """All compressed rows in memory, and the search among them."""

    def __init__(self, search: Search, coder: Any, codes: Lists, asking: Lists) -> None:
        self.search, self.coder, self.codes, self.asking = search, coder, codes, asking

    @cached_property
    def index(self) -> Any:
        """A faiss.IndexIVFPQFastScan of all codes, which is made when it is first asked for."""
        faiss, centroids = check_faiss(), scaled(self.search.centroids)
        count, width = centroids.shape
        self.coarse = faiss.IndexFlatIP(width)  # which the index does not keep alive
        self.coarse.add(centroids.numpy())
        plain = faiss.IndexIVFPQ(self.coarse, width, count, self.coder.M, BITS, faiss.METRIC_INNER_PRODUCT)
        plain.pq, plain.is_trained = self.coder, True
        for number in range(count):
            rows, codes = (np.ascontiguousarray(part.numpy()) for part in self.codes.members(number))
            if len(rows):
                ids = rows.astype(np.int64)
                plain.invlists.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
                plain.ntotal += len(ids)
        packed = faiss.IndexIVFPQFastScan(plain)
        plain.reset()
        packed.nprobe = min(self.search.how.probes, count)
        return packed

    def find(self, numbers: np.ndarray) -> Part:
        """See Find."""
        search = self.search
        queries = search.reference if search.query is None else search.query
        found = [empty_part(search.k, search.how.kind)]
        for number in numbers:
            for rows in self.asking.members(number)[0].split(ASKED):
                if len(rows):
                    found.append((rows, *self.nearest(rows, scaled(queries[rows.long()]).numpy())))
        return as_part(found)

    def nearest(self, rows: Tensor, queries: np.ndarray) -> tuple[Tensor, Tensor]:
        """The neighbours int32 (m, k) of queries (m, D), and their similarities."""
        search, own = self.search, self.search.query is None
        wanted = min(TIMES * search.k + MORE, self.index.ntotal)
        candidates = self.index.search(queries, wanted)[1]  # -1 where the lists hold fewer rows
        scores = torch.from_numpy(compare(queries, candidates, search.reference))
        at = torch.from_numpy(candidates)
        scores.masked_fill_((at < 0) | ((at == rows[:, None]) if own else False), -torch.inf)
        best = scores.topk(min(search.k, wanted))
        lacking = (0, search.k - best.values.shape[1])
        neighbours = at.gather(1, best.indices).clamp(min=0).int()
        return F.pad(neighbours, lacking), F.pad(best.values.to(search.how.kind), lacking, value=-torch.inf)


def compare(queries: np.ndarray, candidates: np.ndarray, reference: Matrix) -> np.ndarray:
    """Exact similarities, float32 (m, c), of queries (m, D) with the rows that candidates (m, c) name; each row is read once."""
    faiss = check_faiss()
    named, at = np.unique(candidates, return_inverse=True)
    lacking = int(named[0] < 0)
    rows = scaled(reference[torch.from_numpy(named[lacking:])]).numpy()
    places = np.ascontiguousarray(at.reshape(candidates.shape) - lacking, np.int64)
    scores = np.zeros(candidates.shape, np.float32)
    arrays = (faiss.swig_ptr(array) for array in (scores, queries, rows, places))
    faiss.fvec_inner_products_by_idx(*arrays, queries.shape[1], len(queries), candidates.shape[1])
    return scores
