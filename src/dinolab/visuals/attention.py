"""Where the class token looks (DINO, arXiv 2104.14294, figures 1 and 4). B images, h x w patches, R registers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from dinolab.models.encoder import evaluating
from dinolab.visuals.sheet import crop_to_patches, enlarge, stretch, write_sheet

MOST_HEADS = 6


def attention_maps(encoder: Any, images: Tensor) -> Tensor:
    """The class token's attention to the patches in the last block: uint8 (B, 3, H, W) -> (B, heads, h, w).

    Registers and the class token itself are left out and the rest is not rescaled, so a map's sum is below 1.
    """
    h, w = images.shape[2] // encoder.patch_size, images.shape[3] // encoder.patch_size
    return encoder.attention(images)[:, :, 0, -h * w :].unflatten(-1, (h, w))


def mass_mask(maps: Tensor, share: float = 0.6) -> Tensor:
    """The fewest patches that together hold `share` of each map's mass: (..., h, w) -> bool (..., h, w)."""
    mass, order = maps.flatten(-2).sort(dim=-1, descending=True, stable=True)
    before = mass.cumsum(-1) - mass  # what the larger ones hold
    keep = before < share * mass.sum(-1, keepdim=True)
    return torch.zeros_like(keep).scatter(-1, order, keep).unflatten(-1, maps.shape[-2:])


def jaccard(mask_pred: Tensor, mask_true: Tensor) -> float:
    """Intersection over union of two bool masks of one shape; 1 if both are empty."""
    union = int((mask_pred | mask_true).sum())
    return int((mask_pred & mask_true).sum()) / union if union else 1.0


def best_head_jaccard(maps: Tensor, masks: Tensor, share: float = 0.6) -> dict[str, Any]:
    """How well the heads' mass masks cover known objects: maps (B, heads, h, w), masks bool (B, H, W).

    As in DINO's figure 4, the thresholded maps are enlarged to the masks' size by nearest neighbour. Returns "heads",
    each head's mean over the images; "best", the largest of them; and "best_head". The head is chosen once for all
    images: choosing it anew for each image would let the truth choose.
    """
    predicted = F.interpolate(mass_mask(maps, share).float(), masks.shape[-2:], mode="nearest").bool().cpu()
    masks = masks.bool().cpu()
    heads = [
        sum(jaccard(p, t) for p, t in zip(predicted[:, head], masks, strict=True)) / len(masks)
        for head in range(maps.shape[1])
    ]
    best = max(range(len(heads)), key=heads.__getitem__)
    return {"heads": heads, "best": heads[best], "best_head": best}


def overlay(picture: np.ndarray, attention: Tensor, share: float) -> np.ndarray:
    """The picture (H, W, 3), grey and dimmed, under the map (h, w) as heat; a white line edges its mass mask."""
    size = picture.shape[:2]
    heat = stretch(attention, size, "bilinear")
    heat = (heat - heat.min()) / max(heat.max() - heat.min(), 1e-12)
    colour = matplotlib.colormaps["inferno"](heat)[..., :3]
    drawn = 0.35 * picture.mean(2, keepdims=True) * (1 - heat[..., None]) + 0.85 * colour
    inside = stretch(mass_mask(attention, share), size, "nearest") > 0.5
    line = max(1, min(size) // 112)
    around = sliding_window_view(np.pad(inside, line), (2 * line + 1, 2 * line + 1))
    drawn[inside & ~around.all((2, 3))] = 1
    return drawn


def attention_sheet(encoder: Any, images: Sequence[Tensor], out: Path, share: float = 0.6) -> None:
    """PNG with a row an image, uint8 (3, H, W): the image, the heads' mean attention, then up to six heads.

    Every map is scaled from its own least to its own greatest value. The line runs round the fewest patches that
    hold `share` of the mass. Images may differ in size; what does not fill a patch is cut off.
    """
    rows = []
    for image in images:
        image = crop_to_patches(image, encoder.patch_size)
        with evaluating(encoder):
            maps = attention_maps(encoder, image[None])[0].float().cpu()
        picture = enlarge(image)
        rows.append([picture] + [overlay(picture, m, share) for m in (maps.mean(0), *maps[:MOST_HEADS])])
    titles = ["image", "mean of heads"] + [f"head {i + 1}" for i in range(len(rows[0]) - 2)]
    write_sheet(rows, titles, out)
