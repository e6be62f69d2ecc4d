"""What the pictures share: uint8 (3, H, W) images to patch-grid maps and back, and a sheet of titled cells.

Figures are made from matplotlib's Figure, not pyplot: nothing global is touched, no window opened.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

DPI = 150
CELL = 1.5  # inches
GAP = 0.06
TITLE = 0.3


def crop_to_patches(image: Tensor, patch_size: int) -> Tensor:
    """(3, H, W) without the rows and columns at the right and bottom that do not fill a patch."""
    height, width = image.shape[1:]
    return image[:, : height // patch_size * patch_size, : width // patch_size * patch_size]


def enlarge(image: Tensor, least: int = 224) -> np.ndarray:
    """uint8 (3, H, W) -> float (H', W', 3) in [0, 1], enlarged by a whole factor until no side is below `least`."""
    factor = -(-least // min(image.shape[1:]))
    pixels = image.permute(1, 2, 0).cpu().numpy() / 255
    return pixels.repeat(factor, 0).repeat(factor, 1)


def stretch(grid: Tensor, size: tuple[int, int], mode: str) -> np.ndarray:
    """A map (h, w) or (h, w, C) on the patch grid -> (H, W) or (H, W, C); mode "nearest" or "bilinear"."""
    channels = grid.float().cpu().reshape(1, *grid.shape[:2], -1).permute(0, 3, 1, 2)
    stretched = F.interpolate(channels, size, mode=mode)[0].permute(1, 2, 0).numpy()
    return stretched if grid.ndim == 3 else stretched[..., 0]


def write_sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], out: Path) -> None:
    """PNG of pictures (H, W, 3) in [0, 1], one list a row, with a title above each column."""
    wide = max(row[0].shape[1] / row[0].shape[0] for row in rows)
    width, height = CELL * max(wide, 1), CELL
    figure_width = len(titles) * (width + GAP) + GAP
    figure_height = len(rows) * (height + GAP) + GAP + TITLE
    figure = Figure((figure_width, figure_height), facecolor="white")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            left, bottom = GAP + c * (width + GAP), figure_height - TITLE - (r + 1) * (height + GAP) + GAP
            axes = figure.add_axes(
                (left / figure_width, bottom / figure_height, width / figure_width, height / figure_height)
            )
            axes.imshow(np.clip(picture, 0, 1), interpolation="nearest" if max(picture.shape) < 450 else "antialiased")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color="0.7", linewidth=0.5)
            if r == 0:
                axes.set_title(titles[c], fontsize=10, color="black", pad=5)
    save(figure, out)


def save(figure: Figure, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI, facecolor="white")
