"""Opens the files that Meta published: DINO (ViT-S and B, patches of 16 and 8; ResNet-50) and DINOv2 (ViT-S to g, with and without
registers).

The files do not name their architecture, so it is inferred from the shapes of the tensors. Parameter names are those of our ViT.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinolab.config import check_options
from dinolab.errors import UserError
from dinolab.models.backbone import Backbone, make_backbone
from dinolab.models.vit import SIZES
from dinolab.options import Model
from dinolab.weights.tensors import fit, read_backbone

PUBLISHED = {
    SIZES[name][:2]: SIZES[name][2] for name in ("small", "base", "large", "giant")
}  # heads by width and number of blocks
CHUNK = re.compile(
    r"^blocks\.\d+\.(\d+)\."
)  # blocks.CHUNK.BLOCK in DINOv2's training checkpoints; BLOCK counts through all chunks
LAYERSCALE = 1e-5  # its initial value in DINOv2, where the file has one
OFFSET = 0.1  # patches that the code of DINO and DINOv2 adds to the size of a grid when it resamples positions


@dataclass(frozen=True)
class Unseen:
    """What the shapes of tensors do not show; None for what the published models have."""

    heads: int | None = None
    antialias: bool | None = None  # whether positions are filtered before they are resampled to a smaller grid
    interpolate_offset: float | None = None  # patches by which that grid is taken for larger

    def given(self) -> dict[str, Any]:
        """The values that are not None."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def load_published(path: Path, unseen: Unseen = Unseen()) -> Backbone:
    """Opens an official file, which holds a backbone or a whole training checkpoint. Raises UserError for any other content."""
    found = read_backbone(path)
    tensors = {CHUNK.sub(r"blocks.\1.", name): tensor for name, tensor in found.items()}
    chunked = any(CHUNK.match(name) for name in found)
    cfg, image_size = architecture(tensors, path, unseen, chunked)
    with torch.device("meta"):
        backbone = make_backbone(cfg, image_size)
    if cfg.size == "resnet50":
        fit(backbone, tensors, f"{path} differs from DINO's ResNet-50 (for another network write timm:NAME={path})")
    else:
        tensors.setdefault("mask_token", torch.zeros(1, backbone.dim))  # DINO has none; without masks it is not used
        fit(backbone, tensors, f"{path} differs from the backbones of DINO and DINOv2")
    return backbone


def architecture(tensors: Mapping[str, Tensor], path: Path, unseen: Unseen, chunked: bool) -> tuple[Model, int]:
    """The architecture and the image size that belong to tensors of these names and shapes.

    Args:
        path: of the file, for messages.
        unseen: what the user knows beside them.
        chunked: the blocks are in chunks, as in DINOv2's training checkpoints and in none of the published models.

    Raises:
        UserError: no architecture fits, or the number of heads is not known.
    """
    if "layer1.0.conv1.weight" in tensors:
        return Model(size="resnet50"), 224
    if "rope_embed.periods" in tensors:
        raise UserError(f"{path}: weights of DINOv3; name timm's model, too, as timm:vit_small_patch16_dinov3={path}")
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
    missing = [name for name in needed if name not in tensors]
    if missing:
        found = ", ".join(list(tensors)[:4])
        raise UserError(
            f"{path}: not a DINO or DINOv2 backbone: no {', '.join(missing)} among its tensors ({found}, ...)"
        )
    for name, dimensions in (("patch_embed.proj.weight", 4), ("pos_embed", 3), ("register_tokens", 3)):
        if name in tensors and (tensors[name].ndim != dimensions or 0 in tensors[name].shape):
            raise UserError(f"{path}: not a published architecture: {name} is {tuple(tensors[name].shape)}")
    dim, _, patch_size, _ = tensors["patch_embed.proj.weight"].shape
    side = math.isqrt(tensors["pos_embed"].shape[1] - 1)
    if not side or side**2 + 1 != tensors["pos_embed"].shape[1]:
        raise UserError(f"{path}: not a published architecture: width {dim}, {tensors['pos_embed'].shape[1]} positions")
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    depth = len(blocks)
    if blocks != set(map(str, range(depth))):
        raise UserError(f"{path}: not a published architecture: some of its {depth} blocks are missing")
    heads = unseen.heads or PUBLISHED.get((dim, depth))
    if heads is None:
        size = f"{depth} blocks of width {dim}"
        raise UserError(
            f"{path}: {size} are no published model, and no tensor shows the number of attention heads: give it, as {path}:heads=N, "
            f"or dinolab.load({str(path)!r}, heads=N)"
        )
    registers = tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0
    cfg = Model(
        **size_or_shape(dim, depth, heads),
        patch_size=patch_size,
        registers=registers,
        layerscale=LAYERSCALE if "blocks.0.ls1.gamma" in tensors else 0.0,
        ffn="swiglu" if "blocks.0.mlp.w12.weight" in tensors else "mlp",
        **resampling(registers > 0 and not chunked, unseen),
    )
    try:
        check_options(cfg)
    except UserError as error:
        raise UserError(f"{path}: not a published architecture: {error}") from error
    return cfg, side * patch_size


def resampling(filtered: bool, unseen: Unseen) -> dict[str, Any]:
    """How positions are resampled: as published with registers (filtered) or without and while DINOv2 trains, unless it is given."""
    antialias = filtered if unseen.antialias is None else unseen.antialias
    offset = 0.0 if filtered else OFFSET
    return {
        "antialias": antialias,
        "interpolate_offset": offset if unseen.interpolate_offset is None else unseen.interpolate_offset,
    }


def size_or_shape(dim: int, depth: int, heads: int) -> dict[str, Any]:
    """The options of `Model` that give this shape: a named size if there is one, else the three numbers."""
    names = {shape: name for name, shape in SIZES.items()}
    shape = (dim, depth, heads)
    return {"size": names[shape]} if shape in names else dict(zip(("dim", "depth", "heads"), shape))
