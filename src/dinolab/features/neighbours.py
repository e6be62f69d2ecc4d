"""The nearest neighbours of feature vectors by cosine similarity: the one search of evaluations and pictures.

N reference rows, M query rows, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES, REFERENCES = 1024, 16384  # rows of each side that are compared at once


def nearest(
    reference: Tensor, query: Tensor, k: int, query_chunk: int = QUERIES, reference_chunk: int = REFERENCES
) -> tuple[Tensor, Tensor]:
    """Find the k reference rows that are most similar to each query row.

    Computes on the query's device. The reference set may lie in another memory: it is copied `reference_chunk` rows at a time, and
    no more than query_chunk x reference_chunk similarities exist at once. Rows are normalised here.

    Args:
        reference: features (N, D), any floating dtype.
        query: features (M, D), any floating dtype.
        k: number of neighbours; N where there are fewer rows.

    Returns:
        Cosine similarities, float32 (M, k), largest first, and the neighbours' rows in `reference`, int64 (M, k).
    """
    device = query.device
    query = F.normalize(query.float(), dim=1)
    similarities = torch.empty(len(query), 0, device=device)  # of the best k so far
    indices = torch.empty(len(query), 0, dtype=torch.int64, device=device)
    start = 0
    for block in reference.split(reference_chunk):
        block = F.normalize(block.to(device).float(), dim=1)
        found = []
        parts = zip(query.split(query_chunk), similarities.split(query_chunk), indices.split(query_chunk), strict=True)
        for rows, best, where in parts:
            new, index = (rows @ block.T).topk(min(k, len(block)))
            best, where = torch.cat([best, new], 1), torch.cat([where, start + index], 1)
            best, order = best.topk(min(k, best.shape[1]))
            found.append((best, where.gather(1, order)))
        similarities, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
        start += len(block)
    return similarities, indices
