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
from dinolab.models.attention import Packing, attention_weights, pack_runs
from dinolab.models.layers import Block, LayerNorm, PatchEmbed, draw_kept
from dinolab.models.stem import StemEmbed
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


def depth_rates(cfg: Model, depth: int) -> list[float]:
    """The rate of stochastic depth in each block."""
    if cfg.drop_path_rates == "rising":
        return [cfg.drop_path * i / max(1, depth - 1) for i in range(depth)]
    return [cfg.drop_path] * depth


class Features(NamedTuple):
    """The features of B images of one size."""

    cls: Tensor  # (B, D)
    registers: Tensor  # (B, R, D)
    patches: Tensor  # (B, h, w, D)


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


class ViT(nn.Module):
    """The vision transformer (arXiv 2010.11929) as DINO and DINOv2 train it.

    Args:
        cfg: the options `model.`.
        image_size: side of the images in pixels, which sets the grid of the position embeddings. For images of another size the
            embeddings are resampled.
        attention_backend: one of `attention.BACKENDS`.
        pixels: the pixels that the network takes.
    """

    def __init__(self, cfg: Model, image_size: int, attention_backend: str = "mixed", pixels: Pixels = RGB):
        super().__init__()
        self.dim, depth, heads = shape_of(cfg)
        if self.dim % heads:
            raise UserError(f"model.dim {self.dim} is not a multiple of model.heads {heads}")
        if image_size % cfg.patch_size:
            raise UserError(f"image size {image_size} is not a multiple of model.patch_size {cfg.patch_size}")
        self.cfg, self.image_size, self.patch_size = cfg, image_size, cfg.patch_size
        self.attention_backend, self.pixels = attention_backend, pixels
        self.patch_embed = (
            StemEmbed(cfg.stem, cfg.patch_size, self.dim, pixels)
            if cfg.stem
            else PatchEmbed(pixels.channels, cfg.patch_size, self.dim)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image_size // cfg.patch_size) ** 2, self.dim))
        if cfg.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, cfg.registers, self.dim))
        self.mask_token = nn.Parameter(torch.zeros(1, self.dim))
        self.blocks = nn.ModuleList(Block(self.dim, heads, cfg.ffn, cfg.layerscale) for _ in range(depth))
        self.norm = LayerNorm(self.dim, eps=1e-6)
        if not self.cls_token.is_meta:  # the values of such a network come from a file
            self.initialise()

    def describe(self) -> str:
        """The architecture in a few words."""
        stem = f", stem {self.cfg.stem}" if self.cfg.stem else ""
        return f"ViT of {len(self.blocks)} blocks of {self.dim}, patch {self.patch_size}{stem}"

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
        depth, drop = len(self.blocks), self.training and self.cfg.drop_path > 0
        rounded = self.cfg.drop_path_rates == "rounded"
        kept = draw_kept(packing, depth_rates(self.cfg, depth), rounded) if drop else [None] * depth
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
