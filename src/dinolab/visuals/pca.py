"""Patch features as colours, by principal components shared by all images (DINOv2, arXiv 2304.07193, figure 1).

N patches of D features; an image has h x w of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.models.encoder import evaluating
from dinolab.visuals.images import patch_features
from dinolab.visuals.sheet import Cell, Row, crop_to_patches, enlarge, stretch, write_sheet


class Colours(NamedTuple):
    """Three principal components, each shown from its 1st (0) to its 99th percentile (1)."""

    mean: Tensor  # (D,)
    basis: Tensor  # (D, 3)
    low: Tensor  # (3,)
    high: Tensor  # (3,)

    def __call__(self, x: Tensor) -> Tensor:
        """Map features (N, D) to colours, float32 (N, 3) in [0, 1]."""
        return ((self.project(x) - self.low) / (self.high - self.low).clamp(min=1e-12)).clamp(0, 1).float()

    def project(self, x: Tensor) -> Tensor:
        """Project features (N, D) onto the components, (N, 3)."""
        return (x - self.mean) @ self.basis


class Pca(NamedTuple):
    """Principal components that `fit` finds in some images; `paint` applies them to any image."""

    all: Colours
    cut: float  # the foreground is where the first component times `side` is greater
    side: int  # 1 or -1
    foreground: Colours


class PcaMaps(NamedTuple):
    """The maps of one image, for each patch."""

    components: Tensor  # (h, w, 3): the projections onto the first three components of all patches
    foreground: Tensor  # bool (h, w)
    rgb: Tensor  # (h, w, 3) in [0, 1]: first three components, fitted to all patches
    foreground_rgb: Tensor  # (h, w, 3) in [0, 1]: components fitted to the foreground's patches; 1 (white) elsewhere


def fit(images: Sequence[Tensor] | Tensor) -> Pca:
    """Find the principal components of all patches of the images, and those of the foreground's patches alone.

    The first component is cut in two where the variance between both sides is greatest. The foreground is the side that holds
    fewer of the patches along the images' borders: which side is positive is arbitrary in a PCA.

    Args:
        images: patch features, (h, w, D) each.
    """
    x = torch.cat([patches.flatten(0, 1) for patches in images]).cpu().double()
    colours = fit_colours(x)
    first = colours.project(x)[:, 0]
    cut = threshold(first)
    at_border = torch.cat([border(*patches.shape[:2]).flatten() for patches in images])
    side = -1 if (first[at_border] > cut).double().mean() > 0.5 else 1
    inside = x[side * first > side * cut]
    return Pca(colours, side * cut, side, fit_colours(inside) if len(inside) else colours)


def paint(patches: Tensor, pca: Pca) -> PcaMaps:
    """Compute the maps of one image from its patch features (h, w, D)."""
    grid = patches.shape[:2]
    x = patches.flatten(0, 1).cpu().double()
    components = pca.all.project(x)
    foreground = pca.side * components[:, 0] > pca.cut
    foreground_rgb = torch.ones(len(x), 3)
    foreground_rgb[foreground] = pca.foreground(x[foreground])
    rgb = pca.all(x).view(*grid, 3)
    return PcaMaps(components.float().view(*grid, 3), foreground.view(grid), rgb, foreground_rgb.view(*grid, 3))


def fit_colours(x: Tensor) -> Colours:
    """Find the first three principal components of rows x (N, D >= 3).

    A component's sign is arbitrary. The loading of greatest size is made positive, so that pictures are repeatable.
    """
    mean = x.mean(0)
    basis = torch.linalg.eigh((x - mean).T @ (x - mean)).eigenvectors[:, -3:].flip(1)
    basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
    low, high = (torch.as_tensor(p) for p in np.percentile(((x - mean) @ basis).numpy(), [1, 99], axis=0))
    return Colours(mean, basis, low, high)


def threshold(values: Tensor) -> float:
    """Find where to cut values (N,) so that the variance between both parts is greatest (Otsu, 1979, without bins)."""
    ordered = values.sort().values
    if len(ordered) < 2:
        return float(ordered.mean())
    n = torch.arange(1, len(ordered), dtype=values.dtype)
    low = ordered.cumsum(0)[:-1]
    high = ordered.sum() - low
    between = low**2 / n + high**2 / (len(ordered) - n)
    cut = int(between.argmax())
    return float((ordered[cut] + ordered[cut + 1]) / 2)


def border(h: int, w: int) -> Tensor:
    """Return bool (h, w), True along the sides."""
    at_border = torch.ones(h, w, dtype=torch.bool)
    at_border[1:-1, 1:-1] = False
    return at_border


def pca_sheet(encoder: Any, images: Sequence[Tensor], out: Path) -> list[PcaMaps]:
    """Draw a PNG with a row for each image: the image, its patches' first three components as RGB, those of the foreground.

    It returns the maps.

    Args:
        images: uint8 (3, H, W) each, of any sizes; all share one basis. What does not fill a patch at the right and bottom is cut
            off.
        out: the PNG.
    """
    images = [crop_to_patches(image, encoder.patch_size) for image in images]
    with evaluating(encoder):
        patches = [patch_features(encoder, image) for image in images]
    pca = fit(patches)
    rows: list[Row] = []
    maps = [paint(features, pca) for features in patches]
    for image, one in zip(images, maps, strict=True):
        picture = enlarge(image)
        drawn = [stretch(part, picture.shape[:2], "nearest") for part in (one.rgb, one.foreground_rgb)]
        rows.append([Cell(picture, "image"), Cell(drawn[0], "all patches"), Cell(drawn[1], "foreground")])
    note = "First three principal components as red, green, blue, of all patches and of the foreground's; one basis for all images."
    write_sheet(rows, out, note)
    return maps
