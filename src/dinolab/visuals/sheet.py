"""What the pictures share: maps on the patch grid laid over images, and a sheet of titled cells.

Figures are made from matplotlib's Figure, not pyplot: nothing global is touched, no window opened.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

DPI = 150
CELL = 1.5, 3.0  # inches of a cell's height, at least and at most
WIDEST = 32.0  # inches of a sheet
GAP = 0.06
LEAST = 224  # pixels of an image's sides
CHARACTERS = 15  # of the note to an inch

Colour = tuple[float, float, float]


class Cell(NamedTuple):
    picture: np.ndarray  # (H, W, 3) in [0, 1]
    title: str
    frame: Colour | None = None  # colour of a thick frame; None: a thin grey one
    bold: bool = False


Row = Sequence[Cell | None]  # None leaves a place empty


def crop_to_patches(image: Tensor, patch_size: int) -> Tensor:
    """(3, H, W) without the rows and columns at the right and bottom that do not fill a patch."""
    height, width = image.shape[1:]
    return image[:, : height // patch_size * patch_size, : width // patch_size * patch_size]


def enlarge(image: Tensor) -> np.ndarray:
    """uint8 (3, H, W) -> float (H', W', 3) in [0, 1], enlarged by a whole factor until no side is below LEAST."""
    factor = -(-LEAST // min(image.shape[1:]))
    pixels = image.permute(1, 2, 0).cpu().numpy() / 255
    return pixels.repeat(factor, 0).repeat(factor, 1)


def stretch(grid: Tensor, size: tuple[int, int], mode: str) -> np.ndarray:
    """A map (h, w) or (h, w, C) on the patch grid -> (H, W) or (H, W, C); mode "nearest" or "bilinear"."""
    channels = grid.float().cpu().reshape(1, *grid.shape[:2], -1).permute(0, 3, 1, 2)
    stretched = F.interpolate(channels, size, mode=mode)[0].permute(1, 2, 0).numpy()
    return stretched if grid.ndim == 3 else stretched[..., 0]


def heat(picture: np.ndarray, grid: Tensor, low: float, high: float) -> np.ndarray:
    """The picture (H, W, 3), grey and dimmed, under a map (h, w) as heat: black at `low` and below, yellow from `high` up."""
    values = ((stretch(grid, picture.shape[:2], "bilinear") - low) / max(high - low, 1e-12)).clip(0, 1)
    glow = matplotlib.colormaps["inferno"](values)[..., :3]
    return 0.35 * picture.mean(2, keepdims=True) * (1 - values[..., None]) + 0.85 * glow


def edge(inside: np.ndarray) -> np.ndarray:
    """The inner border of a region, bool (H, W) -> bool (H, W); where the picture ends it ends too."""
    line = max(1, min(inside.shape) // 112)
    kernel = np.ones((2 * line + 1, 2 * line + 1), np.uint8)
    kept = cv2.erode(inside.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return inside & (kept == 0)


def mark(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    """A copy of the picture (H, W, 3) with a white ring, edged in black, round a point in fractions of its sides."""
    drawn = np.ascontiguousarray(picture, np.float32).copy()
    height, width = picture.shape[:2]
    centre, radius = (int(x * width), int(y * height)), max(4, min(height, width) // 28)
    for colour, thickness in ((0, radius // 2 + 3), (1, radius // 4 + 1)):
        cv2.circle(drawn, centre, radius, (colour,) * 3, thickness, cv2.LINE_AA)
    return drawn


def write_sheet(rows: Sequence[Row], out: Path, note: str = "") -> None:
    """PNG of rows of cells. A row whose titles are those of the row above goes without them; the note stands below.

    A cell is about as high as its picture has pixels, within limits; pictures of other shapes are centred in theirs.
    """
    cells = [cell for row in rows for cell in row if cell]
    columns = max(len(row) for row in rows)
    aspect = max(cell.picture.shape[1] / cell.picture.shape[0] for cell in cells)
    height = min(max(cell.picture.shape[0] for cell in cells) / DPI, CELL[1], WIDEST / columns / aspect)
    height = max(height, CELL[0])
    width = max(height * aspect, CELL[0])
    font = 7 + 2 * height
    title_height = 0.03 * font

    figure_width = columns * (width + GAP) + GAP
    lines = textwrap.wrap(note, int(figure_width * CHARACTERS))
    titles = [[cell and cell.title for cell in row] for row in rows]
    titled = [r == 0 or titles[r] != titles[r - 1] for r in range(len(rows))]
    figure_height = len(rows) * (height + GAP) + sum(titled) * title_height + 0.15 * len(lines) + GAP
    figure = Figure((figure_width, figure_height), facecolor="white")
    top = figure_height
    for row, with_title in zip(rows, titled, strict=True):
        top -= height + GAP + with_title * title_height
        for c, cell in enumerate(row):
            if cell is None:
                continue
            left = GAP + c * (width + GAP)
            axes = figure.add_axes(
                (left / figure_width, (top + GAP) / figure_height, width / figure_width, height / figure_height)
            )
            small = max(cell.picture.shape) < 450
            axes.imshow(np.clip(cell.picture, 0, 1), interpolation="nearest" if small else "antialiased")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=cell.frame or "0.7", linewidth=2 if cell.frame else 0.5)
            if with_title:
                axes.set_title(cell.title, fontsize=font, color="black", pad=5, weight="bold" if cell.bold else None)
    figure.text(
        GAP / figure_width, GAP / figure_height, "\n".join(lines), fontsize=8, color="0.3", va="bottom", linespacing=1.2
    )
    save(figure, out)


def save(figure: Figure, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI, facecolor="white")
