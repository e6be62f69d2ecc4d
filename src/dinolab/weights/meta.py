"""Opens the files that Meta published: DINO (ViT-S and B, patches of 16 and 8; ResNet-50) and DINOv2 (ViT-S to g, with and without
registers).

The files do not name their architecture, so it is inferred from the shapes of the tensors. Parameter names are those of our ViT.
"""

import math
import re
from collections.abc import Mapping
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

HEAD_WIDTH = 64  # of every published model; the number of heads cannot be seen in shapes
LAYERSCALE = 1e-5  # its initial value in DINOv2, where the file has one
OFFSET = 0.1  # patches that the code of DINO and DINOv2 adds to the size of a grid when it resamples positions


def load_published(path: Path) -> Backbone:
    """Opens an official file, which holds a backbone or a whole training checkpoint. Raises UserError for any other content."""
    tensors = {_unchunked(name): tensor for name, tensor in read_backbone(path).items()}
    cfg, image_size = architecture(tensors, path)
    with torch.device("meta"):
        backbone = make_backbone(cfg, image_size)
    if cfg.size == "resnet50":
        fit(backbone, tensors, f"{path} differs from DINO's ResNet-50 (for another network write timm:NAME={path})")
    else:
        tensors.setdefault("mask_token", torch.zeros(1, backbone.dim))  # DINO has none; without masks it is not used
        fit(backbone, tensors, f"{path} differs from the backbones of DINO and DINOv2")
    return backbone


def architecture(tensors: Mapping[str, Tensor], path: Path) -> tuple[Model, int]:
    """The architecture and the image size that belong to tensors of these names and shapes. Raises UserError where none fits."""
    if "layer1.0.conv1.weight" in tensors:
        return Model(size="resnet50"), 224
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
    if dim % HEAD_WIDTH or side**2 + 1 != tensors["pos_embed"].shape[1]:
        raise UserError(f"{path}: not a published architecture: width {dim}, {tensors['pos_embed'].shape[1]} positions")
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    depth = len(blocks)
    if blocks != set(map(str, range(depth))):
        raise UserError(f"{path}: not a published architecture: some of its {depth} blocks are missing")
    registers = tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0
    cfg = Model(
        **size_or_shape(dim, depth, dim // HEAD_WIDTH),
        patch_size=patch_size,
        registers=registers,
        layerscale=LAYERSCALE if "blocks.0.ls1.gamma" in tensors else 0.0,
        ffn="swiglu" if "blocks.0.mlp.w12.weight" in tensors else "mlp",
        antialias=registers > 0,  # as published: only models with registers filter resampled positions
        interpolate_offset=0.0 if registers else OFFSET,
    )
    try:
        check_options(cfg)
    except UserError as error:
        raise UserError(f"{path}: not a published architecture: {error}") from error
    return cfg, side * patch_size


def size_or_shape(dim: int, depth: int, heads: int) -> dict[str, Any]:
    """The options of `Model` that give this shape: a named size if there is one, else the three numbers."""
    names = {shape: name for name, shape in SIZES.items()}
    shape = (dim, depth, heads)
    return {"size": names[shape]} if shape in names else dict(zip(("dim", "depth", "heads"), shape))


def _unchunked(name: str) -> str:
    """Removes the chunk from the names blocks.CHUNK.BLOCK of DINOv2's training checkpoints; BLOCK counts through all chunks."""
    return re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)
