"""The losses and target normalisations of DINO and DINOv2, stateless.

Shapes: K prototypes; leading dimensions are samples. Everything is computed in at least fp32, under autocast too. With several
processes, losses that depend on the whole batch (centre, Sinkhorn-Knopp, KoLeo) use the samples of all ranks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.parallel import gather_over_ranks, max_over_ranks, rank, sum_over_ranks, world

CHUNK = 1 << 25  # logits that a loss holds at a time: 128 MiB in fp32
EPS = 1e-8  # of KoLeo, as DINOv2's code


def at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def prototype_cross_entropy(
    x: Tensor,
    prototypes: Tensor,
    targets: Tensor,
    weights: Tensor,
    temperature: float,
    rows: Tensor | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """sum_i w_i * -sum_k p_ik log softmax(x_i . c / temperature)_k, without ever holding all logits.

    Logits, loss and gradient are computed for some samples at a time, and these logits are then dropped: memory holds one chunk of
    them, and nothing is computed twice. The targets need not sum to one: a student's crop that is compared with two crops of the
    teacher takes the sum of their targets.

    Args:
        x: features to compare with the prototypes, (n, D).
        prototypes: (K, D).
        targets: p, (n, K); or (m, K), where sample i uses targets[rows[i]]. They get no gradient.
        weights: w, (n,).
        rows: int64 (n,), see targets.
        chunk: logits in memory at a time, at least one sample's.
    """
    loss: Tensor = _PrototypeCrossEntropy.apply(x, prototypes, targets, weights, temperature, rows, chunk)
    return loss


class _PrototypeCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_nD: Tensor,
        c_KD: Tensor,
        targets_mK: Tensor,
        weights_n: Tensor,
        temperature: float,
        rows_n: Tensor | None,
        chunk: int,
    ) -> Tensor:
        at_once = max(1, chunk // len(c_KD))
        loss = at_least_fp32(x_nD).new_zeros(())
        grad_x, grad_c = (torch.zeros_like(at_least_fp32(t)) for t in (x_nD, c_KD))
        for start in range(0, len(x_nD), at_once):
            part = slice(start, start + at_once)
            p = targets_mK[part] if rows_n is None else targets_mK.index_select(0, rows_n[part])
            z = at_least_fp32(F.linear(x_nD[part], c_KD))
            with torch.autocast(z.device.type, enabled=False):  # it would round the products to half precision
                w, total = weights_n[part, None], p.sum(-1, keepdim=True)
                z = z.div_(temperature)
                log_sum = z.logsumexp(-1, keepdim=True)
                loss += (w * (total * log_sum - (p * z).sum(-1, keepdim=True))).sum()
                grad_z = z.sub_(log_sum).exp_().mul_(total).sub_(p).mul_(w / temperature)
            grad_z = grad_z.to(x_nD.dtype)
            grad_x[part] = grad_z @ c_KD
            grad_c += grad_z.T @ x_nD[part]
        ctx.save_for_backward(grad_x.to(x_nD.dtype), grad_c.to(c_KD.dtype))
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_x, grad_c = ctx.saved_tensors
        return grad_x * grad, grad_c * grad, None, None, None, None, None


def entropy(p: Tensor) -> Tensor:
    """-sum_k p_k log p_k of distributions (..., K), in nats: (...)."""
    return torch.special.entr(p).sum(-1)


def centred_softmax(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Centring and sharpening, softmax((logits - centre) / temperature): (..., K), (K,) -> (..., K). DINO, equation 1."""
    return (at_least_fp32(logits) - centre).div_(temperature).softmax(-1)


def update_centre(centre: Tensor, logits: Tensor, momentum: float) -> Tensor:
    """The new centre, momentum * c + (1 - momentum) * mean of the logits over samples. DINO, equation 4.

    A mean that is not finite, or of no sample, leaves the centre unchanged: otherwise it would never become finite again.
    """
    flat = at_least_fp32(logits).flatten(0, -2)
    mean = sum_over_ranks(flat.sum(0)) / sum_over_ranks(flat.new_full((), len(flat)))
    return torch.where(mean.isfinite(), momentum * centre + (1 - momentum) * mean, centre)


def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Targets (n, K) that use all prototypes equally over the n samples (SwAV, arXiv 2006.09882, equation 3).

    exp(logits / temperature), then in turn each prototype's column scaled to n/K and each sample's row to 1;
    the row step comes last, so each target is a distribution.
    """
    with torch.autocast(logits.device.type, enabled=False):
        z = at_least_fp32(logits)
        samples = sum_over_ranks(z.new_full((), len(z)))
        row_max = z.amax(1)
        own = z is not logits  # a copy that may be changed
        q = (z.sub_ if own else z.sub)(row_max[:, None]).div_(temperature).exp_()
        # Rows and columns are scaled by two vectors, not in place: with many prototypes q is the largest tensor of a step.
        # The maximum of each row is subtracted, so that none underflows; `row` begins with what was subtracted.
        highest = max_over_ranks(
            torch.cat([row_max, row_max.new_full((1,), -torch.inf)]).amax()
        )  # a rank may have no sample
        row = ((row_max - highest) / temperature).exp_()
        tiny = torch.finfo(q.dtype).tiny  # a column that underflows to zeros must not become 0/0

        def columns(row: Tensor) -> Tensor:
            return sum_over_ranks(q.T @ row).mul_(q.shape[1] / samples).clamp_min_(tiny).reciprocal_()

        for _ in range(iterations - 1):
            row = (q @ columns(row)).clamp_min_(tiny).reciprocal_()
        q.mul_(columns(row))
        return q.div_(q.sum(1, keepdim=True).clamp_min_(tiny))  # dividing by the sum is more accurate than multiplying


def koleo(features: Tensor) -> Tensor:
    """-mean_i log min_{j != i} |x_i - x_j| over L2-normalised features (n, D). DINOv2, section 4; arXiv 1806.03198.

    It spreads the batch over the sphere. Neighbours are searched among the features of all ranks; the mean is over this rank's.
    With fewer than two samples there is no neighbour, and the loss is 0.
    """
    n = len(features)
    if n * world() < 2:
        return features.sum() * 0
    with torch.autocast(features.device.type, enabled=False):  # half precision would pick the wrong neighbours
        x = F.normalize(at_least_fp32(features), dim=-1, eps=EPS)
        everyone = gather_over_ranks(x)
        with torch.no_grad():
            similarity = x @ everyone.T
            similarity.diagonal(rank() * n).fill_(-2)  # itself
            nearest = similarity.argmax(1)
        return -(F.pairwise_distance(x, everyone[nearest], eps=EPS) + EPS).log().mean()


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """mean_i |x_i - y_i|^2 of vectors (n, D). Of length one it is 2 - 2 cos, BYOL's loss (arXiv 2006.07733, equation 2)."""
    return (at_least_fp32(x) - at_least_fp32(y)).square().sum(-1).mean()


def info_nce(x: Tensor, keys: Tensor, places: Tensor, temperature: float) -> Tensor:
    """mean_i -log softmax(x_i . keys / temperature) at places_i. MoCo, arXiv 1911.05722, equation 1.

    Args:
        x: (n, D), of length one.
        keys: (N, D), of length one.
        places: int64 (n,), the key that belongs to x_i; the others are its negatives.
    """
    with torch.autocast(x.device.type, enabled=False):  # it would round the products to half precision
        return F.cross_entropy(at_least_fp32(x) @ at_least_fp32(keys).T / temperature, places)
