"""The losses of methods that compare two crops of each image, stateless.

Shapes: n images of this rank, N of all ranks, D width of an embedding, K keys. Embeddings come as the networks give them; the losses
normalise them. Everything is computed in at least fp32, under autocast too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.losses import at_least_fp32
from dinolab.parallel import gather_over_ranks, rank, sum_over_ranks

EPS = 1e-5  # of Barlow Twins' batch norm
VICREG_EPS = 1e-4  # under VICReg's root


def unit(x: Tensor) -> Tensor:
    """Vectors (..., D) scaled to length one, in at least fp32."""
    return F.normalize(at_least_fp32(x), dim=-1)


def normalised_mse(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared distance of normalised vectors, 2 - 2 cos: (n, D), (n, D) -> scalar. BYOL, arXiv 2006.07733, equation 2."""
    return 2 - 2 * (unit(predictions) * unit(targets)).sum(-1).mean()


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of finding a query's own key among all negatives. MoCo, arXiv 1911.05722, equation 1.

    Args:
        queries: (n, D).
        keys: the key of each query, (n, D).
        negatives: (K, D), the same for all queries.

    Returns:
        The loss, and the share of queries that are nearer to their key than to all negatives, without gradient.
    """
    with torch.autocast(queries.device.type, enabled=False):
        q = unit(queries)
        logits = torch.cat([(q * unit(keys)).sum(-1, keepdim=True), q @ unit(negatives).T], 1) / temperature
    return choose(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of finding a crop's partner among the other crops of all ranks. SimCLR, arXiv 2002.05709, equation 1.

    The mean over the 2 n crops of this rank, each compared with 2 N - 1 others.

    Args:
        first, second: the two crops of each image, (n, D).

    Returns:
        The loss, and the share of crops that are nearest to their partner, without gradient.
    """
    with torch.autocast(first.device.type, enabled=False):
        crops = torch.cat([unit(first), unit(second)])
        everyone = torch.cat([gather_over_ranks(x) for x in crops.chunk(2)])
        n, total = len(first), len(everyone) // 2
        own = torch.arange(n, device=first.device) + rank() * n
        itself, partner = torch.cat([own, own + total]), torch.cat([own + total, own])
        logits = (crops @ everyone.T / temperature).scatter(1, itself[:, None], -torch.inf)
    return choose(logits, partner)


def choose(logits: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of logits (n, K) with the right columns (n,), and the share of rows where the right one is the largest."""
    return F.cross_entropy(logits, right), (logits.detach().argmax(1) == right).to(logits.dtype).mean()


def barlow_twins(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """How far the cross-correlation over all ranks is from the identity. Barlow Twins, arXiv 2103.03230, equations 1 and 2.

    Args:
        first, second: the two crops of each image, (n, D).

    Returns:
        The invariance term, the sum of (1 - c_ii)^2; and the redundancy term, the sum of c_ij^2 over i != j.
    """
    with torch.autocast(first.device.type, enabled=False):
        a, b = centred(first), centred(second)
        samples = sum_over_ranks(a.new_full((), len(a)))
        a, b = ((x * (sum_over_ranks(x.square().sum(0)) / samples + EPS).rsqrt()) for x in (a, b))
        c = sum_over_ranks(a.T @ b) / samples
        diagonal = c.diagonal()
        return (1 - diagonal).square().sum(), c.square().sum() - diagonal.square().sum()


def vicreg(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance of embeddings over all ranks. VICReg, arXiv 2105.04906, with the factors of its code.

    Args:
        first, second: the two crops of each image, (n, D).

    Returns:
        Mean squared distance of the pairs, over n and D; mean of max(0, 1 - deviation) over the channels and both crops; sum over both
        crops of the squared covariances off the diagonal, divided by D.
    """
    with torch.autocast(first.device.type, enabled=False):
        invariance = F.mse_loss(at_least_fp32(first), at_least_fp32(second))
        variance, covariance = torch.zeros_like(invariance), torch.zeros_like(invariance)
        for x in (centred(first), centred(second)):
            samples = sum_over_ranks(x.new_full((), len(x)))
            c = sum_over_ranks(x.T @ x) / (samples - 1)
            variance = variance + F.relu(1 - (c.diagonal() + VICREG_EPS).sqrt()).mean() / 2
            covariance = covariance + (c.square().sum() - c.diagonal().square().sum()) / len(c)
        return invariance, variance, covariance


def centred(x: Tensor) -> Tensor:
    """Embeddings (n, D) less their mean over the samples of all ranks, in at least fp32."""
    x = at_least_fp32(x)
    return x - sum_over_ranks(x.sum(0)) / sum_over_ranks(x.new_full((), len(x)))
