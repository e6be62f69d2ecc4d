"""The class token's attention to the patches (DINO, arXiv 2104.14294, figures 1, 3 and 4).

B images, h x w patches, H x W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgb
from PIL import Image
from torch import Tensor

from dinolab.models.encoder import evaluating, refuse_infinite
from dinolab.visuals.sheet import Cell, Row, crop_to_patches, edge, enlarge, heat, stretch, write_sheet

HEADS_A_ROW = 6
# The first seven heads have the colours of Okabe and Ito, which colour-blind readers can tell apart.
HEAD_COLOURS = [to_rgb(c) for c in ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")]


class Drawn(NamedTuple):
    """What an attention sheet shows."""

    maps: list[Tensor]  # (heads, h, w) of each image
    overlap: dict[str, Any] | None  # the result of `best_head_jaccard`; None without masks


def attention_maps(encoder: Any, images: Tensor) -> Tensor:
    """Compute the class token's attention to the patches in the last block: uint8 (B, 3, H, W) -> (B, heads, h, w).

    Attention to registers and to the class token itself is left out, and the rest is not rescaled: a map's sum is below 1.
    Raises UserError where it is not finite.
    """
    h, w = images.shape[2] // encoder.patch_size, images.shape[3] // encoder.patch_size
    attention = encoder.attention(images)[:, :, 0, -h * w :]
    refuse_infinite(attention, encoder)
    return attention.unflatten(-1, (h, w))


def mass_mask(maps: Tensor, share: float = 0.6) -> Tensor:
    """Select the fewest patches that together hold `share` of each map's sum: (..., h, w) -> bool (..., h, w)."""
    mass, order = maps.flatten(-2).sort(dim=-1, descending=True, stable=True)
    before = mass.cumsum(-1) - mass  # sum of all larger ones
    keep = before < share * mass.sum(-1, keepdim=True)
    return torch.zeros_like(keep).scatter(-1, order, keep).unflatten(-1, maps.shape[-2:])


def jaccard(mask_pred: Tensor, mask_true: Tensor) -> float:
    """Compute the intersection over union of two bool masks of the same shape; 1 if both are empty."""
    union = int((mask_pred | mask_true).sum())
    return int((mask_pred & mask_true).sum()) / union if union else 1.0


def head_jaccards(maps: Tensor, mask: Tensor, share: float = 0.6) -> list[float]:
    """Compute the Jaccard index of each head's `mass_mask` with the mask of a known object.

    As in DINO's figure 4, the thresholded maps are enlarged to the mask's size by nearest neighbour.

    Args:
        maps: attention, (heads, h, w).
        mask: the object, bool (H, W).
        share: see `mass_mask`.
    """
    predicted = F.interpolate(mass_mask(maps, share)[None].float(), mask.shape, mode="nearest")[0].bool().cpu()
    return [jaccard(p, mask.bool().cpu()) for p in predicted]


def best_head_jaccard(maps: Sequence[Tensor] | Tensor, masks: Sequence[Tensor] | Tensor, share: float = 0.6) -> dict:
    """Compute the Jaccard indices of several images, and find the head whose mean is largest.

    The head is chosen once for all images. Choosing it for each image would use the true masks to pick the prediction.

    Args:
        maps: an image's attention, (heads, h, w), for each image. Images may differ in size.
        masks: its object, bool (H, W), for each image.
        share: see `mass_mask`.

    Returns:
        "images": a list of the heads' indices for each image; "heads": each head's mean over the images; "best": the largest of
        these; "best_head": its number, from 0.
    """
    images = [head_jaccards(m, mask, share) for m, mask in zip(maps, masks, strict=True)]
    heads = [sum(values) / len(images) for values in zip(*images, strict=True)]
    best = max(range(len(heads)), key=heads.__getitem__)
    return {"images": images, "heads": heads, "best": heads[best], "best_head": best}


def overlay(picture: np.ndarray, attention: Tensor, share: float) -> np.ndarray:
    """Lay a map (h, w) as heat over a picture (H, W, 3), and draw a white line around its `mass_mask`."""
    drawn = heat(picture, attention, float(attention.min()), float(attention.max()))
    drawn[edge(stretch(mass_mask(attention, share), picture.shape[:2], "nearest") > 0.5)] = 1
    return drawn


def colour_heads(picture: np.ndarray, maps: Tensor, share: float) -> np.ndarray:
    """Paint the `mass_mask` of each of the first seven heads in the head's colour over the picture, as in DINO's figure 3.

    Where masks overlap, the area has the colour of the head that spends the larger part of its attention there. Edges show all.

    Args:
        picture: (H, W, 3) in [0, 1].
        maps: (heads, h, w).
        share: see `mass_mask`.
    """
    size = picture.shape[:2]
    maps = maps[: len(HEAD_COLOURS)] / maps[: len(HEAD_COLOURS)].sum((1, 2), keepdim=True)
    masks = mass_mask(maps, share)
    strongest = (maps * masks).argmax(0)
    drawn = 0.6 * np.repeat(picture.mean(2, keepdims=True), 3, axis=2)
    for head, colour in enumerate(HEAD_COLOURS[: len(maps)]):
        area = stretch(masks[head] & (strongest == head), size, "nearest") > 0.5
        drawn[area] = 0.35 * drawn[area] / 0.6 + 0.6 * np.array(colour)
    for mask, colour in zip(masks, HEAD_COLOURS):
        drawn[edge(stretch(mask, size, "nearest") > 0.5)] = colour
    return drawn


def attention_sheet(
    encoder: Any, images: Sequence[Tensor], out: Path, share: float = 0.6, masks: Sequence[Tensor] | None = None
) -> Drawn:
    """Draw a PNG with a row for each image: the image, the heads' masks in colours, the mean of the heads, every head.

    The colours of each map go from its own least to its own greatest value.

    Args:
        images: uint8 (3, H, W) each, of any sizes. What does not fill a patch at the right and bottom is cut off.
        out: the PNG.
        share: lines enclose the fewest patches that hold this share of the map's sum.
        masks: the objects' true masks, bool (H, W) each. With them, titles show each head's Jaccard index.
    """
    images = [crop_to_patches(image, encoder.patch_size) for image in images]
    with evaluating(encoder):
        maps = [attention_maps(encoder, image[None])[0].float().cpu() for image in images]
    overlap = best_head_jaccard(maps, masks, share) if masks is not None else None
    rows: list[Row] = []
    for n, image in enumerate(images):
        truth = masks[n] if masks is not None else None
        rows += rows_of(enlarge(image), maps[n], share, truth, overlap, n)
    note = f"Class token's attention in the last block; lines enclose the fewest patches with {100 * share:g} % of it."
    if overlap:
        note += " J: Jaccard index of these patches with the object's mask; ★: the best head over all images."
    write_sheet(rows, out, note)
    return Drawn(maps, overlap)


def write_heads(folder: Path, images: Sequence[Tensor], maps: Sequence[Tensor]) -> None:
    """Write each head's map as a PNG without title or line: `2_head_1.png` is the first head of the second image, `2_image.png`.

    The colours go from the map's least to its greatest value; a patch is a square of one colour. Maps of an earlier call, which may
    have had more images, are removed.

    Args:
        folder: is made where it does not exist.
        images: uint8 (3, H, W) each.
        maps: (heads, h, w) each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("[0-9]*_head_[0-9]*.png"), *folder.glob("[0-9]*_image.png")):
        old.unlink()
    for n, (image, heads) in enumerate(zip(images, maps, strict=True), 1):
        picture = enlarge(image)
        drawn = {"image": picture}
        for head, one in enumerate(heads, 1):
            values = stretch((one - one.min()) / (one.max() - one.min()).clamp(min=1e-12), picture.shape[:2], "nearest")
            drawn[f"head_{head}"] = matplotlib.colormaps["inferno"](values)[..., :3]
        for name, pixels in drawn.items():
            Image.fromarray((255 * pixels).round().astype(np.uint8)).save(folder / f"{n}_{name}.png")


def rows_of(
    picture: np.ndarray, maps: Tensor, share: float, truth: Tensor | None, overlap: dict[str, Any] | None, n: int
) -> list[Row]:
    """Return the sheet's rows for image number n; heads after the sixth go into further rows.

    Args:
        picture: (H, W, 3) in [0, 1].
        maps: (heads, h, w).
        share: see `mass_mask`.
        truth: the object's mask, bool (H, W), if it is known.
        overlap: the result of `best_head_jaccard` for all images, if the masks are known.
        n: position of the image in `overlap`.
    """
    coloured = min(len(maps), len(HEAD_COLOURS))
    first = [Cell(picture, "image")]
    if truth is not None:
        drawn = 0.35 * picture
        inside = stretch(truth, picture.shape[:2], "nearest") > 0.5
        drawn[inside] = picture[inside]
        first.append(Cell(drawn, "object's mask"))
    colours = colour_heads(picture, maps, share)
    first.append(Cell(colours, "heads in colours" if coloured == len(maps) else f"heads 1-{coloured}"))
    first.append(Cell(overlay(picture, maps.mean(0), share), "mean of heads"))
    heads = []
    for i, attention in enumerate(maps):
        best = overlap is not None and overlap["best_head"] == i
        title = f"head {i + 1}" + (f"  J {overlap['images'][n][i]:.2f}" if overlap else "") + (" ★" if best else "")
        heads.append(Cell(overlay(picture, attention, share), title, HEAD_COLOURS[i] if i < coloured else None, best))
    rows: list[Row] = [[*first, *heads[:HEADS_A_ROW]]]
    for start in range(HEADS_A_ROW, len(heads), HEADS_A_ROW):
        rows.append([*[None] * len(first), *heads[start : start + HEADS_A_ROW]])
    return rows
