"""Patch features as colours, by principal components shared by all images (DINOv2, arXiv 2304.07193, figure 1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.models.encoder import evaluating
from dinolab.visuals.sheet import crop_to_patches, enlarge, stretch, write_sheet


class PcaMaps(NamedTuple):
    """B images of h x w patches."""

    foreground: Tensor  # bool (B, h, w)
    rgb: Tensor  # (B, h, w, 3) in [0, 1]: first three components of all patches
    foreground_rgb: Tensor  # (B, h, w, 3) in [0, 1]: those of the foreground's patches alone; 1 (white) elsewhere


def pca_maps(patches: Tensor) -> PcaMaps:
    """Foreground and colours from patch features (B, h, w, D), on one basis for all B images.

    Foreground is one side of the first component, split where the variance between both sides is greatest. Which side
    is arbitrary in a PCA: it is the one that holds the lesser part of the patches along the images' borders. Colours
    are the components from their 1st to their 99th percentile.
    """
    grid = patches.shape[:3]
    x = patches.detach().cpu().double().flatten(0, 2)
    components = project(x)
    foreground = (components[:, 0] > threshold(components[:, 0])).view(grid)
    border = torch.ones(grid, dtype=torch.bool)
    border[:, 1:-1, 1:-1] = False
    if foreground[border].double().mean() > 0.5:
        foreground = ~foreground
    foreground_rgb = torch.ones(*grid, 3)
    inside = foreground.flatten()
    if inside.any():
        foreground_rgb[foreground] = colours(project(x[inside]))
    return PcaMaps(foreground, colours(components).view(*grid, 3), foreground_rgb)


def project(x: Tensor) -> Tensor:
    """First three principal components of rows x (N, D >= 3): (N, 3).

    A component's sign is free: it is chosen so that the loading of greatest size is positive, which makes pictures
    repeatable.
    """
    x = x - x.mean(0)
    basis = torch.linalg.eigh(x.T @ x).eigenvectors[:, -3:].flip(1)
    return x @ (basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign())


def threshold(values: Tensor) -> float:
    """Where to cut values (N,) so that the variance between the two parts is greatest (Otsu, 1979, without bins)."""
    ordered = values.sort().values
    if len(ordered) < 2:
        return float(ordered.mean())
    n = torch.arange(1, len(ordered), dtype=values.dtype)
    low = ordered.cumsum(0)[:-1]
    high = ordered.sum() - low
    between = low**2 / n + high**2 / (len(ordered) - n)
    cut = int(between.argmax())
    return float((ordered[cut] + ordered[cut + 1]) / 2)


def colours(components: Tensor) -> Tensor:
    """(N, 3) -> float32 (N, 3) in [0, 1], each column from its 1st to its 99th percentile."""
    low, high = np.percentile(components.numpy(), [1, 99], axis=0)
    return torch.as_tensor((components.numpy() - low) / np.maximum(high - low, 1e-12)).clamp(0, 1).float()


def pca_sheet(encoder: Any, images: Sequence[Tensor], out: Path) -> None:
    """PNG with a row an image: the image, its patches' first three components as RGB, and those of the foreground.

    All images, uint8 (3, H, W), share one basis, so they must be of one size; what does not fill a patch is cut off.
    """
    batch = torch.stack([crop_to_patches(image, encoder.patch_size) for image in images])
    with evaluating(encoder):
        patches = torch.cat([encoder(image[None]).patches for image in batch])
    maps = pca_maps(patches)
    rows = []
    for image, rgb, foreground_rgb in zip(batch, maps.rgb, maps.foreground_rgb, strict=True):
        picture = enlarge(image)
        rows.append([picture] + [stretch(part, picture.shape[:2], "nearest") for part in (rgb, foreground_rgb)])
    write_sheet(rows, ["image", "components 1-3", "of the foreground"], out)
