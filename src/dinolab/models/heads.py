"""The projection heads: that of DINO and iBOT, and the MLP of the methods that compare two crops."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.options import Head


class DINOHead(nn.Module):
    """An MLP, L2 normalisation, then the cosine similarity with each prototype: (..., D) -> logits (..., K).

    From DINO (arXiv 2104.14294, appendix C). Prototypes are scaled to length one, so a logit lies in [-1, 1]. With
    `train_norms` their lengths are trained parameters, which start at one: the weight_g of the published code.
    """

    def __init__(self, dim: int, cfg: Head):
        super().__init__()
        widths = [dim] + [cfg.hidden] * (cfg.layers - 1) + [cfg.bottleneck]
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(n_in, n_out))
            last = i == cfg.layers - 1
            if cfg.batch_norm:
                layers.append(nn.BatchNorm1d(n_out, affine=not last, track_running_stats=False))
            if not last:
                layers.append(nn.GELU())
        self.mlp = nn.Sequential(*layers)
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.prototypes = nn.Linear(cfg.bottleneck, cfg.prototypes, bias=False)
        self.prototypes_norm = nn.Parameter(torch.ones(cfg.prototypes, 1)) if cfg.train_norms else None

    def forward(self, x: Tensor) -> Tensor:
        """The logits (..., K) of features (..., D)."""
        directions, prototypes = self._compare(x)
        return F.linear(directions, prototypes).view(*x.shape[:-1], len(prototypes))

    def compare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two factors of the logits: directions (n, bottleneck) of length one, and prototypes (K, bottleneck)."""
        return self._compare(x)

    # `forward` must not call `compare`: FSDP registers `compare` as a forward of its own (parallel.shard), after which it frees
    # the parameters and takes the whole forward pass for finished
    def _compare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.mlp(x.reshape(-1, x.shape[-1]))  # batch norm takes samples by channels
        # eps is large enough for half precision; a zero vector must not become NaN
        prototypes = F.normalize(self.prototypes.weight, dim=-1)
        if self.prototypes_norm is not None:
            prototypes = prototypes * self.prototypes_norm
        return F.normalize(y, dim=-1, eps=1e-6), prototypes


def mlp(dim: int, hidden: int, out: int, layers: int, batch_norm: bool) -> nn.Sequential:
    """An MLP with ReLU, (n, dim) -> (n, out): the head of the methods that compare two crops of each image.

    With batch norm after each hidden layer, no layer has a bias, as in the published code of BYOL, Barlow Twins and VICReg.
    Weights start as PyTorch's, as theirs.
    """
    widths = [dim] + [hidden] * (layers - 1) + [out]
    parts: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        parts.append(nn.Linear(n_in, n_out, bias=not batch_norm))
        if i < layers - 1:
            parts += [nn.BatchNorm1d(n_out), nn.ReLU()] if batch_norm else [nn.ReLU()]
    return nn.Sequential(*parts)
