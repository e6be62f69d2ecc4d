"""What looks alike to the encoder: the cosine similarity of one patch to all patches. An image has h x w patches of D features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.models.encoder import evaluating
from dinolab.visuals.sheet import Cell, Row, crop_to_patches, enlarge, heat, mark, write_sheet

A_ROW = 6


def patch_at(patches: Tensor, x: float, y: float) -> Tensor:
    """The feature (D,) of the patch (h, w, D) at a point in fractions of the image's width and height."""
    h, w = patches.shape[:2]
    return patches[min(int(y * h), h - 1), min(int(x * w), w - 1)]


def similarity_map(patches: Tensor, asked: Tensor) -> Tensor:
    """Cosine similarity of each patch (h, w, D) with the feature asked for (D,): (h, w) in [-1, 1]."""
    return F.cosine_similarity(patches.float(), asked.float(), dim=-1)


def similarity_sheet(encoder: Any, images: Sequence[Tensor], at: tuple[float, float], out: Path) -> tuple[float, float]:
    """PNG of images, uint8 (3, H, W) of any sizes, each above its map; six side by side.

    `at` is a point in the first image, in fractions of its width and height: its patch is compared with all of all images,
    on one scale. Returns where that begins and ends: the least similarity, and the greatest but for the patch itself's.
    """
    images = [crop_to_patches(image, encoder.patch_size) for image in images]
    with evaluating(encoder):
        patches = [encoder(image[None]).patches[0].float().cpu() for image in images]
    asked = patch_at(patches[0], *at)
    maps = [similarity_map(features, asked) for features in patches]
    low, high = scale(maps)
    pictures = [enlarge(image) for image in images]
    cells = [
        (Cell(picture, f"image {n}"), Cell(heat(picture, m, low, high), f"up to {m.max():.2f}"))
        for n, (picture, m) in enumerate(zip(pictures, maps, strict=True), 1)
    ]
    marked = [Cell(mark(cell.picture, *at), "marked patch") for cell in cells[0]]
    cells[0] = (marked[0], marked[1]._replace(title="similarity"))
    rows: list[Row] = []
    for start in range(0, len(cells), A_ROW):
        above, below = zip(*cells[start : start + A_ROW], strict=True)
        rows += [above, below]
    note = f"Cosine similarity with the marked patch, from {low:.2f} (black) to {high:.2f} (yellow) in all images."
    write_sheet(rows, out, note)
    return low, high


def scale(maps: Sequence[Tensor]) -> tuple[float, float]:
    """The least value, and the greatest but for one: the asked patch is alike to itself, however unlike all others are."""
    values = torch.cat([m.flatten() for m in maps]).sort().values
    return float(values[0]), float(values[-2:][0])
