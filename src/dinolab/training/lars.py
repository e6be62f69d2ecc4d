"""LARS (arXiv 1708.03888): SGD with momentum, whose step for each weight matrix is proportional to the matrix's norm."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class LARS(torch.optim.Optimizer):
    """v <- momentum * v + q * (gradient + weight_decay * w);  w <- w - lr * v.

    As BYOL uses it (arXiv 2006.07733, section 3.3): q = trust * |w| / |gradient + weight_decay * w| for matrices and convolutions, and
    1 for biases, norms and other vectors, which have no weight decay either (the groups' `weight_decay` says so). q is 1, too, where one
    of the norms is 0. Norms are those of whole parameters, also where these are sharded over processes.

    Args:
        groups: groups of parameters with further entries of their own, such as `lr_factor`.
        trust: the trust coefficient.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float, trust: float):
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                w, velocity = local(p), local(self.state[p]["momentum_buffer"])
                step = p.grad.add(p, alpha=group["weight_decay"])
                ratio = trust_ratio(p, step, group["trust"]) if p.ndim > 1 else 1.0
                velocity.mul_(group["momentum"]).add_(local(step) * ratio)
                w.sub_(velocity, alpha=group["lr"])


def trust_ratio(p: nn.Parameter, step: Tensor, trust: float) -> Tensor:
    """trust * |p| / |step|, and 1 where one of them is 0; on the device, without waiting for it."""
    of_weights, of_step = whole_norm(p), whole_norm(step)
    both = (of_weights > 0) & (of_step > 0)
    return torch.where(both, trust * of_weights / of_step, 1.0)


def whole_norm(x: Tensor) -> Tensor:
    """The L2 norm of all of a tensor, which may be sharded: a number on every process."""
    norm = torch.linalg.vector_norm(x)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def local(x: Tensor) -> Tensor:
    """The part of a tensor that this process holds; it shares its memory."""
    return x.to_local() if isinstance(x, DTensor) else x
