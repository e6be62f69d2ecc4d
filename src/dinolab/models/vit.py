"""The vision transformer of DINO and DINOv2, packed: crops of every size go through it in one forward pass.

Parameter names are those of the published DINOv2 checkpoints. Shapes: B images of C channels, T packed tokens, D width,
N patches of an image (h x w), R registers, L = 1 + R + N tokens of an image: class token, registers, patches.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.models.attention import Packing, attention, attention_weights, pack_runs
from dinolab.options import Model
from dinolab.pixels import RGB, Pixels

SIZES = {  # dim, depth, heads
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "giant": (1536, 40, 24),
}


def shape_of(cfg: Model) -> tuple[int, int, int]:
    """The width, the number of blocks and the number of heads of a ViT."""
    dim, depth, heads = SIZES[cfg.size]
    return cfg.dim or dim, cfg.depth or depth, cfg.heads or heads


class Features(NamedTuple):
    """The features of B images of one size."""

    cls: Tensor  # (B, D)
    registers: Tensor  # (B, R, D)
    patches: Tensor  # (B, h, w, D)


class Kept(NamedTuple):
    """The crops that a block's two residual branches keep under stochastic depth."""

    attn_rows: Tensor  # int64 (rows,), positions of their tokens in the packed sequence
    mlp_rows: Tensor  # the same for the MLP branch
    packing: Packing  # of these tokens only
    scale: Tensor  # (rows, 1), number of crops divided by that of kept crops: the expected output stays the same


def draw_kept(packing: Packing, drop: float, blocks: int) -> list[Kept]:
    """Draws a random subset of each run's crops for each block and branch (stochastic depth, arXiv 1603.09382).

    The subsets always have the same size, so shapes do not change from step to step.

    Args:
        packing: of all crops.
        drop: share of the crops that each branch leaves out.
        blocks: number of blocks.
    """
    device = packing.cu_seqlens.device
    rows, runs, scales, start = [], [], [], 0
    for n, length in packing.runs:
        keep = max(1, round(n * (1 - drop)))
        crops = torch.rand(2 * blocks, n, device=device).argsort(1)[:, :keep, None]
        rows.append((start + crops * length + torch.arange(length, device=device)).flatten(1))
        runs.append((keep, length))
        scales.append(torch.full((keep * length, 1), n / keep, device=device))
        start += n * length
    of_branch = torch.cat(rows, 1).unbind()
    kept, scale = pack_runs(tuple(runs), device), torch.cat(scales)
    return [Kept(a, m, kept, scale) for a, m in zip(of_branch[::2], of_branch[1::2])]


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
        x_TD = x_TD.index_add(0, kept.attn_rows, (branch * kept.scale).to(x_TD.dtype))
        branch = self.ls2(self.mlp(self.norm2(x_TD.index_select(0, kept.mlp_rows))))
        return x_TD.index_add(0, kept.mlp_rows, (branch * kept.scale).to(x_TD.dtype))


def sine_positions(side: int, dim: int) -> Tensor:
    """Sines and cosines of x and y at dim / 4 frequencies, (side^2, dim): arXiv 1706.03762, section 3.5, in two dimensions."""
    frequencies = 10000 ** -(torch.arange(dim // 4) / (dim // 4))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (x, y)]
    positions = torch.cat([wave(a) for a in angles for wave in (torch.sin, torch.cos)], dim=1)
    return F.pad(positions, (0, dim - positions.shape[1]))


def resample_positions(pos_embed: Tensor, grid: tuple[int, int], cfg: Model) -> Tensor:
    """Resamples position embeddings to another grid of patches, bicubically, in fp32 at least.

    Args:
        pos_embed: (1, 1 + side^2, D); the first is that of the class token, which stays as it is.
        grid: number of patches h and w.
        cfg: with `antialias`, a filter precedes shrinking. With `interpolate_offset`, samples are spaced as for a grid that is
            larger by this number of patches, as in the code of DINO and DINOv2.

    Returns:
        (1, 1 + h*w, D)
    """
    side = math.isqrt(pos_embed.shape[1] - 1)
    if grid == (side, side):
        return pos_embed
    cls, patches = pos_embed[:, :1], pos_embed[:, 1:]
    square = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    square = square.to(torch.promote_types(square.dtype, torch.float32))  # half precision moves the positions
    offset = cfg.interpolate_offset
    size, scale = (None, [(n + offset) / side for n in grid]) if offset else (grid, None)
    square = F.interpolate(square, size, scale, mode="bicubic", antialias=cfg.antialias)
    return torch.cat([cls, square.flatten(2).transpose(1, 2).to(cls.dtype)], dim=1)


class PatchEmbed(nn.Module):
    """One linear layer on the pixels of each patch: (B, C, H, W) -> (B, h, w, D)."""

    def __init__(self, channels: int, patch_size: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).permute(0, 2, 3, 1)


class ViT(nn.Module):
    """The vision transformer (arXiv 2010.11929) as DINO and DINOv2 train it.

    Args:
        cfg: the options `model.`.
        image_size: side of the images in pixels, which sets the grid of the position embeddings. For images of another size the
            embeddings are resampled.
        attention_backend: one of `attention.BACKENDS`.
        pixels: the pixels that the network takes.
    """

    def __init__(self, cfg: Model, image_size: int, attention_backend: str = "sdpa", pixels: Pixels = RGB):
        super().__init__()
        self.dim, depth, heads = shape_of(cfg)
        if self.dim % heads:
            raise UserError(f"model.dim {self.dim} is not a multiple of model.heads {heads}")
        if image_size % cfg.patch_size:
            raise UserError(f"image size {image_size} is not a multiple of model.patch_size {cfg.patch_size}")
        self.cfg, self.image_size, self.patch_size = cfg, image_size, cfg.patch_size
        self.attention_backend, self.pixels = attention_backend, pixels
        self.patch_embed = PatchEmbed(pixels.channels, cfg.patch_size, self.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image_size // cfg.patch_size) ** 2, self.dim))
        if cfg.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, cfg.registers, self.dim))
        self.mask_token = nn.Parameter(torch.zeros(1, self.dim))
        self.blocks = nn.ModuleList(Block(self.dim, heads, cfg.ffn, cfg.layerscale) for _ in range(depth))
        self.norm = LayerNorm(self.dim, eps=1e-6)
        self.initialise()

    def describe(self) -> str:
        """The architecture in a few words."""
        return f"ViT of {len(self.blocks)} blocks of {self.dim}, patch {self.patch_size}"

    def initialise(self) -> None:
        """Draws the initial weights.

        With init=published they are those of DINOv2: linear layers and positions are normal with deviation 0.02, class token and
        registers with 1e-6 (DINO's class token has 0.02), biases and mask token are zero, and the convolution of the patches
        is as PyTorch makes it. For init=scaled see `Model.init`.
        """
        scaled = self.cfg.init == "scaled"
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if scaled:
                    nn.init.xavier_uniform_(module.weight)
                else:
                    nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if scaled:
            with torch.no_grad():
                self.pos_embed[0, 1:] = sine_positions(self.image_size // self.patch_size, self.dim)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.cfg.registers:
            nn.init.normal_(self.register_tokens, std=1e-6)

    def forward(self, crops: Sequence[Tensor], masks: Sequence[Tensor | None] | None = None) -> list[Features]:
        """Computes the features of several batches of crops, each batch of one size, in one packed forward pass.

        Args:
            crops: normalised images, each (B_i, C, H_i, W_i). Where H or W is not a multiple of the patch size, the remainder at the
                bottom or right is left out.
            masks: for each batch bool (B_i, N_i), True where the mask token replaces the patch, or None.

        Raises:
            UserError: an image is smaller than a patch.
        """
        (last,) = self.layers(crops, 1, masks)
        return last

    def layers(
        self, crops: Sequence[Tensor], n: int, masks: Sequence[Tensor | None] | None = None
    ) -> list[list[Features]]:
        """The same as `forward` for each of the last n blocks, first to last, after the final norm."""
        x_TD, packing, grids = self.pack(crops, masks)
        depth, drop = len(self.blocks), self.cfg.drop_path if self.training else 0.0
        kept = draw_kept(packing, drop, depth) if drop else [None] * depth
        outs = []
        for i, block in enumerate(self.blocks):
            x_TD = block(x_TD, packing, self.attention_backend, kept[i])
            if i >= len(self.blocks) - n:
                outs.append(self.unpack(self.norm(x_TD), packing, grids))
        return outs

    def attention(self, images: Tensor) -> Tensor:
        """The attention weights of the last block, (B, heads, L, L), for normalised images (B, C, H, W)."""
        x_TD, packing, _ = self.pack([images])
        for block in self.blocks[:-1]:
            x_TD = block(x_TD, packing, self.attention_backend)
        last = cast(Block, self.blocks[-1])
        q, k, _ = last.attn.split_heads(last.norm1(packing.split(x_TD)[0]))
        return attention_weights(q.transpose(1, 2), k.transpose(1, 2))

    def pack(
        self, crops: Sequence[Tensor], masks: Sequence[Tensor | None] | None = None
    ) -> tuple[Tensor, Packing, list[tuple[int, int]]]:
        """The input of the first block (T, D), its packing, and the grid of patches (h, w) of each batch."""
        tokens, runs, grids = [], [], []
        for images, mask in zip(crops, masks or [None] * len(crops)):
            x, grid = self.embed(images, mask)
            tokens.append(x.flatten(0, 1))
            runs.append((x.shape[0], x.shape[1]))
            grids.append(grid)
        return torch.cat(tokens), pack_runs(tuple(runs), tokens[0].device), grids

    def embed(self, images: Tensor, mask: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
        """The tokens (B, L, D) of images of one size, positions added, and their grid of patches (h, w)."""
        if min(images.shape[-2:]) < self.patch_size:
            raise UserError(
                f"images of {tuple(images.shape[-2:])} pixels are smaller than a patch of {self.patch_size}"
            )
        x = self.patch_embed(images.to(self.cls_token.dtype))
        b, h, w, _ = x.shape
        x = x.flatten(1, 2)
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_token.to(x.dtype), x)
        pos = self.positions(h, w)
        cls = (self.cls_token + pos[:, :1]).expand(b, -1, -1)
        registers = [self.register_tokens.expand(b, -1, -1)] if self.cfg.registers else []
        return torch.cat([cls, *registers, x + pos[:, 1:]], dim=1), (h, w)

    def positions(self, h: int, w: int) -> Tensor:
        """Position embeddings (1, 1 + h*w, D): that of the class token, then those of the patches, resampled to their grid."""
        return resample_positions(self.pos_embed, (h, w), self.cfg)

    def unpack(self, x_TD: Tensor, packing: Packing, grids: list[tuple[int, int]]) -> list[Features]:
        """The features of each batch, from packed tokens (T, D)."""
        r = self.cfg.registers
        return [
            Features(x[:, 0], x[:, 1 : 1 + r], x[:, 1 + r :].unflatten(1, grid))
            for x, grid in zip(packing.split(x_TD), grids)
        ]
