"""Clusters of features and losses with them, stateless: spherical k-means (DeepCluster-v2), a queue's part in SwAV's targets, and
OBoW's bags of visual words.

Shapes: n features of width D, K clusters, prototypes or words.
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


def bags_of_words(x: Tensor, words: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """OBoW's bags of visual words (arXiv 2012.11552), without gradient, as its published code makes them.

    Each place of an image is assigned to the words by softmax(-sharpness |x - word|^2). The image's bag has the largest share of each
    word at any place, divided by their sum.

    Args:
        x: features (B, N, D) of the N places of each image.
        words: (K, D).
        sharpness: the inverse temperature, ().

    Returns:
        The bags (B, K), and for each place the squared distance (B, N) and the number, int64 (B, N), of its nearest word.
    """
    found = []
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):  # it would round the products to half precision
        x, words = at_least_fp32(x), at_least_fp32(words)
        squares = words.square().sum(-1)
        for part in x.split(max(1, CHUNK // (x.shape[1] * len(words)))):  # images whose assignments fit into memory
            # |x|^2 - |x - word|^2, which the softmax of one place does not tell from -|x - word|^2
            near = torch.addmm(-squares, part.flatten(0, 1), words.T, alpha=2).unflatten(0, part.shape[:2])
            best, number = near.max(-1)
            bag = near.mul_(sharpness).softmax(-1).amax(1)
            distance = (part.square().sum(-1) - best).clamp_min(0)
            found.append((bag / bag.sum(-1, keepdim=True), distance, number))
    bags, distances, numbers = (torch.cat(parts) for parts in zip(*found))
    return bags, distances, numbers
