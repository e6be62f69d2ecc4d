"""The losses and target normalisations of DINO and DINOv2, stateless.

Shapes: K prototypes; leading dimensions are samples, whatever they stand for. Everything is computed in at least fp32,
under autocast too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def cross_entropy(targets: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """-sum_k p_k log softmax(logits / temperature)_k, for each sample: (..., K) and (..., K) -> (...).

    The targets need not sum to one: a student view that meets two teacher views takes the sum of their targets.
    The softmax's logarithm is never stored beside the logits.
    """
    with torch.autocast(logits.device.type, enabled=False):  # it would round the products to half precision
        z = at_least_fp32(logits) / temperature
        return targets.sum(-1) * torch.logsumexp(z, dim=-1) - torch.einsum("...k,...k->...", targets, z)


def multi_crop_cross_entropy(
    targets_2BK: Tensor, globals_2BK: Tensor, locals_LBK: Tensor | None, temperature: float
) -> Tensor:
    """Mean cross-entropy over all pairs of a teacher's global view and another view of the student. DINO, equation 3.

    Each local crop meets the sum of both teachers' targets once, so its logits are read once.
    """
    total = cross_entropy(targets_2BK.flip(0), globals_2BK, temperature).sum(0)
    pairs = 2
    if locals_LBK is not None:
        total = total + cross_entropy(targets_2BK.sum(0), locals_LBK, temperature).sum(0)
        pairs += 2 * len(locals_LBK)
    return total.mean() / pairs


def entropy(p: Tensor) -> Tensor:
    """-sum_k p_k log p_k of distributions (..., K), in nats: (...)."""
    return torch.special.entr(p).sum(-1)


def centred_softmax(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Centring and sharpening, softmax((logits - centre) / temperature): (..., K), (K,) -> (..., K). DINO, equation 1."""
    return (at_least_fp32(logits) - centre).div_(temperature).softmax(-1)


def update_centre(centre: Tensor, logits: Tensor, momentum: float) -> Tensor:
    """The new centre, momentum * c + (1 - momentum) * mean of the logits over samples. DINO, equation 4."""
    return momentum * centre + (1 - momentum) * at_least_fp32(logits).flatten(0, -2).mean(0)


def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Targets (n, K) that share the prototypes out equally over the n samples (SwAV, arXiv 2006.09882, equation 3).

    exp(logits / temperature), then in turn each prototype's column scaled to n/K and each sample's row to 1;
    the row step comes last, so each target is a distribution.
    """
    q = at_least_fp32(logits) / temperature
    if not len(q):  # a step without a masked patch
        return q
    tiny = torch.finfo(q.dtype).tiny  # what underflows to an empty row or column must not become 0/0
    q.sub_(q.max()).exp_()  # in place: with many prototypes this is the largest tensor of a step
    for _ in range(iterations):
        q.div_(q.sum(0, keepdim=True).clamp_min_(tiny).mul_(q.shape[1]))
        q.div_(q.sum(1, keepdim=True).clamp_min_(tiny))
    return q


def koleo(features: Tensor, eps: float = 1e-8) -> Tensor:
    """-mean_i log min_{j != i} |x_i - x_j| over L2-normalised features (n, D). DINOv2, section 4; arXiv 1806.03198.

    Spreads the batch over the sphere. With fewer than two samples there is no neighbour and the loss is 0.
    """
    if len(features) < 2:
        return features.sum() * 0
    with torch.autocast(features.device.type, enabled=False):  # half precision would pick the wrong neighbours
        x = F.normalize(at_least_fp32(features), dim=-1, eps=eps)
        with torch.no_grad():
            similarity = x @ x.T
            similarity.fill_diagonal_(-2)
            nearest = similarity.argmax(1)
        return -(F.pairwise_distance(x, x[nearest], eps=eps) + eps).log().mean()
