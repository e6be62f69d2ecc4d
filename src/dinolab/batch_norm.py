"""Batch norm with the statistics of all processes that train together."""

from typing import Any

import torch
from torch import Tensor, nn

from dinolab.parallel import sum_over_ranks


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with the statistics of all ranks' samples, on any device: torch.nn.SyncBatchNorm works on GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        whole = self.training or not self.track_running_stats
        y = self.normalised(x) if whole else super().forward(x)
        act: Any = getattr(self, "act", None)  # timm has batch norms with their activation inside
        return act(y) if act else y

    def normalised(self, x: Tensor) -> Tensor:
        """`x` less its mean over the samples of all ranks, divided by its standard deviation, with the layer's own scale and shift."""
        y = x if x.dtype == torch.float64 else x.float()
        channels = x.shape[1]
        others = [d for d in range(x.ndim) if d != 1]
        shape = [-1 if d == 1 else 1 for d in range(x.ndim)]
        n = sum_over_ranks(y.new_full((), x.numel() // channels)).clamp(min=1)
        mean = sum_over_ranks(y.sum(others)) / n
        y = y - mean.view(shape)
        var = sum_over_ranks(y.square().sum(others)) / n
        if self.training and self.track_running_stats:
            assert (
                self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
            )
            assert self.momentum is not None
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_((var * n / (n - 1)).to(self.running_var.dtype), self.momentum)
                self.num_batches_tracked.add_(1)
        y = y * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            y = torch.addcmul(self.bias.view(shape), y, self.weight.view(shape))
        return y.to(x.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accepts any number of dimensions."""


def sync_batch_norm(network: nn.Module) -> None:
    """Make each batch norm compute its statistics over all ranks, in place, so that they do not depend on the number of ranks."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = SyncBatchNorm
