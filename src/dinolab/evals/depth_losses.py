"""The head that predicts depths from patches, and its losses, as in DINOv2's evaluation (arXiv 2304.07193, section 7.4).

The losses take lists of maps (H, W), so that images of a batch may have different sizes. h x w patches, C features, K bins.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BINS = 256
UPSAMPLED = 4
FLOOR = 0.1  # added to each bin's weight
EPS = 0.001  # metres, added before logarithms
MEAN_WEIGHT = 0.15  # of the squared mean beside the variance
SCALES = (1, 2, 4, 6)  # pixels between those that the gradient term compares


class BinHead(nn.Module):
    """A linear layer from patches to bins of depth; the depth is the mean of the bins, weighted by relu(logit) + 0.1.

    The published head upsamples patches four times and then applies the layer. Here its logits are upsampled, which is the same up
    to rounding, since bilinear weights sum to 1, and takes a sixteenth of the products.

    Args:
        width: C.
        low, high: depths of the first and the last bin.
        generator: of the initial weights, which are normal with deviation 0.01.
    """

    bins: Tensor  # (K,)

    def __init__(self, width: int, low: float, high: float, generator: torch.Generator | None = None):
        super().__init__()
        self.linear = nn.Linear(width, BINS)
        nn.init.normal_(self.linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("bins", torch.linspace(low, high, BINS))

    def forward(self, patches: Tensor) -> Tensor:
        """Depths (4 h, 4 w) from patches (h, w, C)."""
        logits = self.linear(patches).permute(2, 0, 1)
        logits = F.interpolate(logits[None], scale_factor=UPSAMPLED, mode="bilinear", align_corners=False)[0]
        return self.depths(logits)

    def depths(self, logits: Tensor) -> Tensor:
        """The mean depth (h, w) from logits of the bins (K, h, w)."""
        weights = logits.relu() + FLOOR
        return torch.einsum("k,khw->hw", self.bins, weights) / weights.sum(0)


def sig_loss(predicted: Sequence[Tensor], truth: Sequence[Tensor], high: float, warm: bool = False) -> Tensor:
    """Scale-invariant log loss: sqrt(var(g) + 0.15 mean(g)^2) with g = log(predicted) - log(truth) of all valid pixels.

    Args:
        high: readings above it are not valid, nor those of 0.
        warm: leave out the variance, as at the start of the published training.
    """
    parts = []
    for p, t in zip(predicted, truth):
        valid = (t > 0) & (t <= high)
        parts.append((p[valid] + EPS).log() - (t[valid] + EPS).log())
    g = torch.cat(parts)
    mean = MEAN_WEIGHT * g.mean().square()
    return (mean if warm else g.var() + mean).sqrt()


def gradient_loss(predicted: Sequence[Tensor], truth: Sequence[Tensor], high: float) -> Tensor:
    """Differences between the gradients of log depths, at four scales (MegaDepth, arXiv 1804.00607, equation 3).

    At each scale every 1st, 2nd, 4th or 6th pixel is taken, and pixels two apart are compared, down and across. The published code
    for DINOv2 compares the wrong axes of batches, which DINOv3's mends; on a single map all three agree.
    """
    total = predicted[0].new_zeros(())
    for step in SCALES:
        found, count = predicted[0].new_zeros(()), predicted[0].new_zeros(())
        for p, t in zip(predicted, truth):
            p, t = p[::step, ::step], t[::step, ::step]
            valid = (t > 0) & (t <= high)
            g = torch.where(valid, (p + EPS).log() - (t + EPS).log(), 0)
            for difference, both in (
                (g[2:] - g[:-2], valid[2:] & valid[:-2]),
                (g[:, 2:] - g[:, :-2], valid[:, 2:] & valid[:, :-2]),
            ):
                found = found + (difference.abs() * both).sum()
            count = count + valid.sum()
        total = total + found / count.clamp(min=1)
    return total
