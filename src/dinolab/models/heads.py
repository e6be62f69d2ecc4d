"""The projection heads: of DINO and iBOT, of methods that compare two crops, and of methods that cluster."""

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
        self.predictor = predictor(cfg) if cfg.predictor else None

    def forward(self, x: Tensor) -> Tensor:
        """The teacher's logits (..., K) of features (..., D): without the predictor."""
        directions, prototypes = self._compare(x, predict=False)
        return F.linear(directions, prototypes).view(*x.shape[:-1], len(prototypes))

    def compare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two factors of the student's logits: directions (n, bottleneck) of length one, and prototypes (K, bottleneck)."""
        return self._compare(x, predict=True)

    # `forward` must not call `compare`: FSDP registers `compare` as a forward of its own (parallel.shard), after which it frees
    # the parameters and takes the whole forward pass for finished
    def _compare(self, x: Tensor, predict: bool) -> tuple[Tensor, Tensor]:
        y = self.mlp(x.reshape(-1, x.shape[-1]))  # batch norm takes samples by channels
        if predict and self.predictor is not None:
            y = self.predictor(y)
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


def predictor(cfg: Head) -> nn.Module:
    """BYOL's predictor (arXiv 2006.07733, section 3.3), before the prototypes and with the head's width and activation."""
    norm = [nn.BatchNorm1d(cfg.hidden, track_running_stats=False)] if cfg.batch_norm else []
    return nn.Sequential(nn.Linear(cfg.bottleneck, cfg.hidden), *norm, nn.GELU(), nn.Linear(cfg.hidden, cfg.bottleneck))


class ClusterHead(nn.Module):
    """SwAV's projection head (arXiv 2006.09882, appendix A): an MLP of two layers, L2 normalisation, and prototypes of length one.

    Args:
        dim: width of a feature, D.
        prototypes: their number, K; 0 for none.
        batch_norm: after the hidden layer, with the statistics of each batch.
    """

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int = 0, batch_norm: bool = True):
        super().__init__()
        norm = [nn.BatchNorm1d(hidden, track_running_stats=False)] if batch_norm else []
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), *norm, nn.ReLU(), nn.Linear(hidden, bottleneck))
        self.prototypes = nn.Linear(bottleneck, prototypes, bias=False) if prototypes else None
        self.normalise_prototypes()

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, D) -> embeddings (n, bottleneck) of length one."""
        return F.normalize(self.mlp(x), dim=-1, eps=1e-6)

    def compare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings (n, bottleneck) of features (n, D), and the prototypes (K, bottleneck)."""
        assert self.prototypes is not None
        # a copy: where parameters are sharded, the whole ones are freed at the end of this call
        return F.normalize(self.mlp(x), dim=-1, eps=1e-6), self.prototypes.weight.clone()

    @torch.no_grad()
    def normalise_prototypes(self) -> None:
        """Scale each prototype to length one, in place: SwAV does it between its steps, so no gradient goes through it."""
        if self.prototypes is not None:
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
