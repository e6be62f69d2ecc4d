"""The cosine similarity of one patch to all patches: where the encoder finds the same thing again.

An image has h x w patches of D features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.models.encoder import evaluating
from dinolab.visuals.images import patch_features
from dinolab.visuals.sheet import Cell, Row, crop_to_patches, enlarge, heat, mark, write_sheet

IMAGES_A_ROW = 6


def patch_at(patches: Tensor, x: float, y: float) -> Tensor:
    """Return the feature (D,) of the patch (h, w, D) at a point in fractions of the image's width and height."""
    h, w = patches.shape[:2]
    return patches[min(int(y * h), h - 1), min(int(x * w), w - 1)]


def similarity_map(patches: Tensor, query: Tensor) -> Tensor:
    """Compute the cosine similarity of each patch (h, w, D) with a query feature (D,): (h, w), in [-1, 1]."""
    return F.cosine_similarity(patches.float(), query.float(), dim=-1)


def similarity_sheet(encoder: Any, images: Sequence[Tensor], at: tuple[float, float], out: Path) -> list[Tensor]:
    """Draw a PNG of images, six side by side, each above the map of its patches' similarity to one patch of the first image.

    Args:
        images: uint8 (3, H, W) each, of any sizes. What does not fill a patch at the right and bottom is cut off.
        at: the patch's place in the first image, in fractions of its width and height.
        out: the PNG.

    Returns:
        The map (h, w) of each image. All share one colour scale (see `scale`).
    """
    images = [crop_to_patches(image, encoder.patch_size) for image in images]
    with evaluating(encoder):
        patches = [patch_features(encoder, image) for image in images]
    query = patch_at(patches[0], *at)
    maps = [similarity_map(features, query) for features in patches]
    low, high = scale(maps)
    pictures = [enlarge(image) for image in images]
    cells = [
        (Cell(picture, f"image {n}"), Cell(heat(picture, m, low, high), f"up to {m.max():.2f}"))
        for n, (picture, m) in enumerate(zip(pictures, maps, strict=True), 1)
    ]
    marked = [Cell(mark(cell.picture, *at), "marked patch") for cell in cells[0]]
    cells[0] = (marked[0], marked[1]._replace(title="similarity"))
    rows: list[Row] = []
    for start in range(0, len(cells), IMAGES_A_ROW):
        above, below = zip(*cells[start : start + IMAGES_A_ROW], strict=True)
        rows += [above, below]
    note = f"Cosine similarity with the marked patch, from {low:.2f} (black) to {high:.2f} (yellow) in all images."
    write_sheet(rows, out, note)
    return maps


def scale(maps: Sequence[Tensor]) -> tuple[float, float]:
    """Return the least value and the second greatest: the greatest is the query patch's similarity to itself, which is always 1."""
    values = torch.cat([m.flatten() for m in maps]).sort().values
    return float(values[0]), float(values[-2:][0])
