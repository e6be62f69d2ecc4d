"""The canvas of an action video: where its panels are, and the parts that stay the same. All sizes are pixels."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from dinolab.visuals.action_strip import COLOURS, DARK, LIGHT, STRIP
from dinolab.visuals.lettering import lettering
from dinolab.visuals.video import Paint

PANEL = 480, 616  # height and width of a panel, at most
NARROWEST = 1280  # width of the canvas, at least
MARGIN, GAP = 24, 12
HEADER, LABEL = 72, 40  # heights of the title and of the panels' names
SMALLEST = 16  # letters of a long title


class Layout(NamedTuple):
    """The canvas, and the places of its panels."""

    title: str
    height: int
    width: int
    panel: tuple[int, int]  # height and width of a panel
    lefts: list[int]  # left edge of each panel


def lay_out(title: str, panels: int, aspect: float) -> Layout:
    """Make panels as large as PANEL allows, on a canvas whose sides are even, as the pixel format yuv420p requires.

    Args:
        panels: number of panels beside each other.
        aspect: width of a frame over its height.
    """
    tallest, widest = PANEL
    scale = min(tallest, widest / aspect)
    height, width = round(scale), max(round(scale * aspect), (NARROWEST - 2 * MARGIN - (panels - 1) * GAP) // panels)
    across = 2 * MARGIN + panels * width + (panels - 1) * GAP
    down = HEADER + LABEL + height + MARGIN + STRIP + MARGIN
    lefts = [MARGIN + i * (width + GAP) for i in range(panels)]
    return Layout(title, down + down % 2, across + across % 2, (height, width), lefts)


def draw_panels(frame: np.ndarray, shown: Tensor, paints: Sequence[Paint], panel: tuple[int, int]) -> list[np.ndarray]:
    """Return the frame, as large as fits into a panel, and its maps in the same size, uint8 (h, w, 3) each.

    Args:
        frame: uint8 (H, W, 3).
        shown: the frame as the encoder sees it, uint8 (3, H', W').
        panel: height and width.
    """
    factor = min(panel[0] / frame.shape[0], panel[1] / frame.shape[1])
    height, width = (max(1, round(factor * side)) for side in frame.shape[:2])
    picture = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    maps = [(paint(shown, picture / 255).clip(0, 1) * 255).round().astype(np.uint8) for paint in paints]
    return [picture, *maps]


def place(canvas: np.ndarray, picture: np.ndarray, left: int, panel: tuple[int, int]) -> None:
    """Copy a picture into the middle of the panel that begins at `left`."""
    height, width = picture.shape[:2]
    top, left = HEADER + LABEL + (panel[0] - height) // 2, left + (panel[1] - width) // 2
    canvas[top : top + height, left : left + width] = picture


def draw_base(layout: Layout, names: Sequence[str]) -> np.ndarray:
    """Draw the parts that are the same in all frames: the title, and the panels' names."""
    image = Image.new("RGB", (layout.width, layout.height), DARK)
    draw, room = ImageDraw.Draw(image), layout.width - 2 * MARGIN
    title, font = lettering(layout.title, 32, room, bold=True, smallest=SMALLEST)
    draw.text((MARGIN, HEADER / 2), title, "white", font, anchor="lm")
    base = np.array(image)
    for n, name in enumerate(names):
        name_panel(base, layout, name, n)
    return base


def name_panel(canvas: np.ndarray, layout: Layout, name: str, panel: int) -> None:
    """Draw a panel's name above it, over the name that is there."""
    label = Image.new("RGB", (layout.panel[1], LABEL), DARK)
    text, font = lettering(name, 24, layout.panel[1])
    ImageDraw.Draw(label).text((0, LABEL / 2 - 4), text, LIGHT, font, anchor="lm")
    left = layout.lefts[panel]
    canvas[HEADER : HEADER + LABEL, left : left + layout.panel[1]] = label


def draw_card(layout: Layout, about: Mapping[str, str]) -> np.ndarray:
    """Draw the title card: the title, and below it each part of the video with its explanation."""
    image = Image.new("RGB", (layout.width, layout.height), DARK)
    draw = ImageDraw.Draw(image)
    left, top = 2 * MARGIN, layout.height // 2 - 100
    title, font = lettering(layout.title, 56, layout.width - 2 * left, bold=True, smallest=SMALLEST)
    draw.text((left, top), title, "white", font, anchor="ls")
    for n, (name, text) in enumerate(about.items()):
        row = top + 70 + 48 * n
        name, font = lettering(name, 26, 180, bold=True)
        draw.text((left, row), name, COLOURS[1], font, anchor="ls")
        text, font = lettering(text, 26, layout.width - 2 * left - 190)
        draw.text((left + 190, row), text, LIGHT, font, anchor="ls")
    return np.asarray(image)
