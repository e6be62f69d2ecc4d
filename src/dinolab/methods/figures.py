"""Figures that tell whether features and targets are healthy: entropy, use of prototypes, effective rank."""

import math

import torch
from torch import Tensor

from dinolab.losses import entropy
from dinolab.parallel import gather_over_ranks, sum_over_ranks, world

MOST_FEATURES = 1024  # that the rank is computed from


@torch.no_grad()
def target_figures(targets: list[Tensor]) -> dict[str, float]:
    """Figures of one step's targets, over all micro-batches and processes.

    Args:
        targets: distributions over K prototypes, (2, B_m, K) for each micro-batch.

    Returns:
        teacher_entropy: mean entropy of the targets, in nats; log K means that they distinguish no prototype.
        marginal_entropy: entropy of the mean target, in nats; 0 means that all images share one prototype.
        prototypes_used: share of the prototypes that are some crop's most likely one, of those that could be.
    """
    p = torch.cat(targets, dim=1).flatten(0, 1).float()
    chosen = gather_over_ranks(p.argmax(-1))
    return {
        "teacher_entropy": sum_over_ranks(entropy(p).mean()).item() / world(),
        "marginal_entropy": entropy(sum_over_ranks(p.mean(0)) / world()).item(),
        "prototypes_used": chosen.unique().numel() / min(len(chosen), p.shape[1]),
    }


@torch.no_grad()
def feature_figures(features: list[Tensor]) -> dict[str, float]:
    """The effective rank of one step's features, (2, B_m, D) for each micro-batch, over all processes."""
    x = torch.cat(features, dim=1).flatten(0, 1).float()
    return {"effective_rank": effective_rank(gather_over_ranks(x))}


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the normalised singular values of centred features (n, D). Roy and Vetterli, 2007.

    1 for features on one line, 0 for constant ones, D at most. Computed from the first 1024 features.
    """
    x = features[:MOST_FEATURES] - features[:MOST_FEATURES].mean(0)
    if x.norm() <= 1e-6 * max(1.0, features[:MOST_FEATURES].norm().item()):
        return 0.0
    s = torch.linalg.svdvals(x.cpu())
    return math.exp(entropy(s / s.sum()).item())
