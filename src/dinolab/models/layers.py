"""The layers of the vision transformer, on packed sequences.

Shapes: T packed tokens, D width.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.models.attention import Packing, attention, pack_runs


class Kept(NamedTuple):
    """The crops that a block's two residual branches keep under stochastic depth."""

    attn_rows: Tensor  # int64 (rows,), positions of their tokens in the packed sequence
    attn_scale: Tensor  # (rows, 1), 1 / (1 - rate), so that the expected output stays the same; 0 for a crop that is dropped too
    mlp_rows: Tensor  # the same for the MLP branch
    mlp_scale: Tensor
    packing: Packing  # of these tokens only


def draw_kept(packing: Packing, rates: Sequence[float], rounded: bool = False) -> list[Kept | None]:
    """Draws a random subset of each run's crops for each block and branch (stochastic depth, arXiv 1603.09382).

    Each crop is dropped with exactly the block's rate, and shapes do not change from step to step: of n crops, n (1 - rate)
    rounded up are computed, and chance decides whether the last of them counts or is multiplied by 0.

    Args:
        packing: of all crops.
        rates: for each block, the share of the crops that each branch leaves out.
        rounded: keep n (1 - rate) rounded to the nearest number, at least one, and never drop one by chance.

    Returns:
        For each block its kept crops, or None where the rate is 0.
    """
    device, branches = packing.cu_seqlens.device, 2 * len(rates)
    orders = [torch.rand(branches, n, device=device).argsort(1) for n, _ in packing.runs]
    chances = [None if rounded else torch.rand(branches, device=device) for _ in packing.runs]
    kept: list[Kept | None] = []
    for rate, group in groupby(rates):  # blocks of one rate share their tensors
        blocks = len(list(group))
        part = slice(2 * len(kept), 2 * (len(kept) + blocks))
        if not rate:
            kept += [None] * blocks
            continue
        rows, runs, scales, start = [], [], [], 0
        for (n, length), order, chance in zip(packing.runs, orders, chances):
            share = n * (1 - rate)
            keep = max(1, round(share)) if rounded else math.ceil(share - 1e-6)
            scale = torch.full((2 * blocks, keep, 1), n / keep if rounded else 1 / (1 - rate), device=device)
            if chance is not None:
                scale[:, -1, 0] *= chance[part] < share - (keep - 1)
            crops = order[part, :keep, None]
            rows.append((start + crops * length + torch.arange(length, device=device)).flatten(1))
            scales.append(scale.expand(-1, -1, length).flatten(1))
            runs.append((keep, length))
            start += n * length
        of_branches = list(zip(torch.cat(rows, 1), torch.cat(scales, 1).unsqueeze(-1)))
        of_kept = pack_runs(tuple(runs), device)
        kept += [Kept(*attn, *mlp, of_kept) for attn, mlp in zip(of_branches[::2], of_branches[1::2])]
    return kept


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in the input's dtype, also where sharding has made copies of the weights in a lower precision."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class LayerScale(nn.Module):
    """Multiplies each channel by a trainable factor (arXiv 2103.17239)."""

    def __init__(self, dim: int, init: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention within each crop of a packed sequence."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def split_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of tokens (..., D), each (..., heads, D / heads)."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)

    def forward(self, x_TD: Tensor, packing: Packing, backend: str) -> Tensor:
        q, k, v = self.split_heads(x_TD)
        return self.proj(attention(q, k, v, packing, backend).flatten(1))


class Mlp(nn.Module):
    """Two linear layers with GELU between them; the hidden layer is four times as wide."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """(silu(x W1) * (x W2)) W3 (arXiv 2002.05202). The hidden width is 2/3 of the MLP's, in multiples of 8, as in DINOv2."""

    def __init__(self, dim: int):
        super().__init__()
        hidden = (int(4 * dim * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Block(nn.Module):
    """Pre-norm transformer block. With stochastic depth each branch computes only the kept crops, and scales its output."""

    def __init__(self, dim: int, heads: int, ffn: str, layerscale: float):
        super().__init__()
        self.norm1 = LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim, layerscale) if layerscale else nn.Identity()
        self.norm2 = LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim) if ffn == "mlp" else SwiGLU(dim)
        self.ls2 = LayerScale(dim, layerscale) if layerscale else nn.Identity()

    def forward(self, x_TD: Tensor, packing: Packing, backend: str, kept: Kept | None = None) -> Tensor:
        if kept is None:
            x_TD = x_TD + self.ls1(self.attn(self.norm1(x_TD), packing, backend))
            return x_TD + self.ls2(self.mlp(self.norm2(x_TD)))
        # index_select and not x[rows], whose backward is several times slower
        branch = self.ls1(self.attn(self.norm1(x_TD.index_select(0, kept.attn_rows)), kept.packing, backend))
        x_TD = x_TD.index_add(0, kept.attn_rows, (branch * kept.attn_scale).to(x_TD.dtype))
        branch = self.ls2(self.mlp(self.norm2(x_TD.index_select(0, kept.mlp_rows))))
        return x_TD.index_add(0, kept.mlp_rows, (branch * kept.mlp_scale).to(x_TD.dtype))


class PatchEmbed(nn.Module):
    """One linear layer on the pixels of each patch: (B, C, H, W) -> (B, h, w, D)."""

    def __init__(self, channels: int, patch_size: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).permute(0, 2, 3, 1)
