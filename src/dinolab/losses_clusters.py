"""Clusters of features and losses with them, stateless: spherical k-means (DeepCluster-v2), and a queue's part in SwAV's targets.

Shapes: n features of width D, K clusters or prototypes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.losses import CHUNK, at_least_fp32, sinkhorn_knopp
from dinolab.parallel import rank, world


def nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """The centroid with the largest dot product, int64 (n,), of each feature (n, D)."""
    return torch.cat([(part @ centroids.T).argmax(1) for part in x.split(max(1, CHUNK // len(centroids)))])


def spherical_means(x: Tensor, centroids: Tensor) -> Tensor:
    """One round of spherical k-means (Dhillon and Modha, 2001): the new centroids (K, D), of length one.

    A cluster without features keeps its centroid. The same on all ranks that hold the same features.

    Args:
        x: features (n, D); those of length zero change nothing.
        centroids: (K, D).
    """
    numbers = torch.arange(len(centroids), device=x.device)[:, None]
    sums = torch.zeros_like(centroids)
    for part in x.split(max(1, CHUNK // len(centroids))):
        members_Kn = (part @ centroids.T).argmax(1) == numbers
        sums += members_Kn.to(x.dtype) @ part  # index_add_ would on a GPU give each rank sums of its own
    empty = ~sums.any(1, keepdim=True)
    return torch.where(empty, centroids, F.normalize(sums, dim=1))


def cluster_cross_entropy(x: Tensor, centroids: Tensor, clusters: Tensor, temperature: float) -> Tensor:
    """-log softmax(x . centroids / temperature) at each image's cluster, mean over crops. DeepCluster-v2, arXiv 2006.09882, section B.

    Args:
        x: embeddings of length one, (V, B, D), of V crops of B images.
        centroids: (K, D).
        clusters: int64 (B,), those of the images; -1 for images that belong to none, which count in no way.
    """
    with torch.autocast(x.device.type, enabled=False):  # it would round the products to half precision
        logits = at_least_fp32(x).flatten(0, 1) @ at_least_fp32(centroids).T / temperature
        each = F.cross_entropy(logits, clusters.repeat(len(x)), ignore_index=-1, reduction="sum")
    return each / (len(x) * (clusters >= 0).sum().clamp_min(1))


def assignments_with_queue(scores: Tensor, queue: Tensor | None, epsilon: float, iterations: int) -> Tensor:
    """SwAV's targets (n, K) by Sinkhorn-Knopp over this batch and a queue (arXiv 2006.09882, section 3.1).

    Args:
        scores: products of embeddings and prototypes, (n, K).
        queue: those of the queue (Q, K), which is the same on all ranks; each takes its share of it. None: no queue.
    """
    if queue is None:
        return sinkhorn_knopp(scores, epsilon, iterations)
    share = queue.tensor_split(world())[rank()]
    return sinkhorn_knopp(torch.cat([share, scores]), epsilon, iterations)[len(share) :]
