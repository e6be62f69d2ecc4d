"""The parts that pictures share: maps on the patch grid laid over images, and a sheet of titled cells."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dinolab.plotting import DPI, save

CELL = 1.5, 3.0  # a cell's height in inches, at least and at most
WIDEST = 32.0  # a sheet's width in inches, at most
GAP = 0.06  # inches between cells
LEAST = 224  # pixels of an image's sides, at least: smaller images are enlarged
SMALL = 450  # pixels: pictures below this size are drawn with sharp pixels
DIM = 0.35  # brightness of a picture below a map
CHARACTERS = 15  # of the note, to an inch
NOTE_LINE = 0.15  # inches of height that a line of the note takes

Colour = tuple[float, float, float]


class Cell(NamedTuple):
    picture: np.ndarray  # (H, W, 3) in [0, 1]
    title: str
    frame: Colour | None = None  # colour of a thick frame; None for a thin grey one
    bold: bool = False


Row = Sequence[Cell | None]  # None leaves a place empty


def crop_to_patches(image: Tensor, patch_size: int) -> Tensor:
    """Cut off the rows and columns of an image (3, H, W) that do not fill a patch, at the bottom and right."""
    height, width = image.shape[1:]
    return image[:, : height // patch_size * patch_size, : width // patch_size * patch_size]


def enlarge(image: Tensor) -> np.ndarray:
    """Convert uint8 (3, H, W) to float (H', W', 3) in [0, 1], enlarged by a whole factor until no side is below LEAST."""
    factor = -(-LEAST // min(image.shape[1:]))
    pixels = image.permute(1, 2, 0).cpu().numpy() / 255
    return pixels.repeat(factor, 0).repeat(factor, 1)


def stretch(grid: Tensor, size: tuple[int, int], mode: str) -> np.ndarray:
    """Stretch a map on the patch grid to a picture's size.

    Args:
        grid: (h, w) or (h, w, C).
        size: H and W in pixels.
        mode: "nearest" or "bilinear".

    Returns:
        (H, W) or (H, W, C).
    """
    channels = grid.float().cpu().reshape(1, *grid.shape[:2], -1).permute(0, 3, 1, 2)
    stretched = F.interpolate(channels, size, mode=mode)[0].permute(1, 2, 0).numpy()
    return stretched if grid.ndim == 3 else stretched[..., 0]


def heat(picture: np.ndarray, grid: Tensor, low: float, high: float) -> np.ndarray:
    """Lay a map (h, w) as heat over a picture (H, W, 3), which becomes grey and dim.

    Values are black at `low` and below, and yellow at `high` and above.
    """
    values = ((stretch(grid, picture.shape[:2], "bilinear") - low) / max(high - low, 1e-12)).clip(0, 1)
    glow = matplotlib.colormaps["inferno"](values)[..., :3]
    return DIM * picture.mean(2, keepdims=True) * (1 - values[..., None]) + 0.85 * glow


def edge(inside: np.ndarray) -> np.ndarray:
    """Return the inner border of a region, bool (H, W) -> bool (H, W). The picture's own border counts as a border."""
    line = max(1, min(inside.shape) // 112)
    kernel = np.ones((2 * line + 1, 2 * line + 1), np.uint8)
    kept = cv2.erode(inside.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return inside & (kept == 0)


def mark(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    """Copy a picture (H, W, 3) and draw a white ring with a black edge round a point in fractions of its width and height."""
    drawn = np.ascontiguousarray(picture, np.float32).copy()
    height, width = picture.shape[:2]
    centre, radius = (int(x * width), int(y * height)), max(4, min(height, width) // 28)
    for colour, thickness in ((0, radius // 2 + 3), (1, radius // 4 + 1)):
        cv2.circle(drawn, centre, radius, (colour,) * 3, thickness, cv2.LINE_AA)
    return drawn


def write_sheet(rows: Sequence[Row], out: Path, note: str = "") -> None:
    """Draw rows of cells as a PNG, with a note below.

    A row is drawn without titles where they are the same as in the row above. A cell is about as high as its picture has pixels,
    within limits; a picture of another shape is centred in its cell.
    """
    columns = max(len(row) for row in rows)
    width, height = cell_size([cell for row in rows for cell in row if cell], columns)
    font = 7 + 2 * height
    title_height = 0.03 * font

    figure_width = columns * (width + GAP) + GAP
    lines = textwrap.wrap(note, int(figure_width * CHARACTERS))
    titles = [[cell and cell.title for cell in row] for row in rows]
    titled = [r == 0 or titles[r] != titles[r - 1] for r in range(len(rows))]
    figure_height = len(rows) * (height + GAP) + sum(titled) * title_height + NOTE_LINE * len(lines) + GAP
    figure = Figure((figure_width, figure_height), facecolor="white")
    top = figure_height
    for row, with_title in zip(rows, titled, strict=True):
        top -= height + GAP + with_title * title_height
        for c, cell in enumerate(row):
            if cell is None:
                continue
            left = GAP + c * (width + GAP)
            place = (left / figure_width, (top + GAP) / figure_height, width / figure_width, height / figure_height)
            draw_cell(figure.add_axes(place), cell, font if with_title else 0)
    corner = (GAP / figure_width, GAP / figure_height)
    figure.text(*corner, "\n".join(lines), fontsize=8, color="0.3", va="bottom", linespacing=1.2)
    save(figure, out)


def cell_size(cells: Sequence[Cell], columns: int) -> tuple[float, float]:
    """Return the width and height in inches of all cells, wide enough for the widest picture."""
    aspect = max(cell.picture.shape[1] / cell.picture.shape[0] for cell in cells)
    height = min(max(cell.picture.shape[0] for cell in cells) / DPI, CELL[1], WIDEST / columns / aspect)
    height = max(height, CELL[0])
    return max(height * aspect, CELL[0]), height


def draw_cell(axes: Axes, cell: Cell, font: float) -> None:
    """Draw a cell's picture with its frame, and its title in letters of `font` points; 0 leaves the title out."""
    small = max(cell.picture.shape) < SMALL
    axes.imshow(np.clip(cell.picture, 0, 1), interpolation="nearest" if small else "antialiased")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=cell.frame or "0.7", linewidth=2 if cell.frame else 0.5)
    if font:
        axes.set_title(cell.title, fontsize=font, color="black", pad=5, weight="bold" if cell.bold else None)
