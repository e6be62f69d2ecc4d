"""Frames of clips: resized to whole patches, and drawn with their masks."""

import io
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from dinolab.evals.contours import contour
from dinolab.evals.label_images import LabelImage, colours
from dinolab.files import write_whole

COARSE = 256  # pixels: shorter frames are resized to multiples of the patch alone
HEIGHT, GAP = 240, 4  # pixels of a picture
OPACITY = 0.5


class Sizes(NamedTuple):
    """How the size that the encoder sees follows from that of a frame."""

    short: int  # usual length of the short side, in pixels
    multiple: int  # the long side is a multiple of so many pixels
    rounding: str  # "down", with bilinear samples as OpenCV takes them; "up", with bicubic and antialiased ones


def fitting(height: int, width: int, size: tuple[int, int], sizes: Sizes, patch: int) -> tuple[int, int]:
    """The height and width, in pixels, to which a frame is resized; both are multiples of the patch.

    Rounding down is DINO's: the long side to a multiple of 64, whatever the patch. The short side is then the nearest multiple of the
    patch. A square frame is treated as if it were wide.

    Args:
        size: of the short side, twice; or height and width themselves.
        patch: side of a patch, in pixels.
    """
    if size[0] != size[1]:
        return to_patches(size[0], patch), to_patches(size[1], patch)
    long = size[0] * max(height, width) / min(height, width)
    if sizes.rounding == "up":
        sides = tuple(-int(-side // patch) * patch for side in (size[0], long))
    else:
        multiple = sizes.multiple if size[0] >= COARSE else patch
        sides = to_patches(size[0], patch), to_patches(int(long // multiple) * multiple, patch)
    return (sides[1], sides[0]) if height > width else (sides[0], sides[1])


def to_patches(side: int, patch: int) -> int:
    """The multiple of the patch that is nearest, at least one."""
    return max(1, round(side / patch)) * patch


def fit(frame: np.ndarray, size: tuple[int, int], sizes: Sizes, patch: int) -> np.ndarray:
    """A frame, uint8 (H, W, 3), resized as `fitting` says."""
    height, width = fitting(frame.shape[0], frame.shape[1], size, sizes, patch)
    if sizes.rounding == "up":
        return np.array(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)


def overlay(frame: np.ndarray, image: LabelImage) -> np.ndarray:
    """A frame, uint8 (H, W, 3), with its mask in colours and its contours, HEIGHT pixels high."""
    palette = colours()
    if image.palette:
        known = np.frombuffer(image.palette, np.uint8).reshape(-1, 3)
        palette[: len(known)] = known
    else:  # of labels such as 255 for a single object, the colours of 1, 2, ... are easier to see
        present = np.unique(image.labels)
        palette[present] = palette[: len(present)]
    covered = (image.labels > 0)[..., None]
    mixed = (1 - OPACITY) * frame + OPACITY * palette[image.labels]
    painted = np.where(covered, mixed, frame).round().astype(np.uint8)
    width = max(1, round(frame.shape[1] * HEIGHT / frame.shape[0]))
    small = cv2.resize(painted, (width, HEIGHT), interpolation=cv2.INTER_AREA)
    labels = cv2.resize(image.labels, (width, HEIGHT), interpolation=cv2.INTER_NEAREST)
    for label in np.unique(labels[labels > 0]):
        small[contour(labels == label)] = 255
    return small


def strip(panels: list[np.ndarray], out: Path) -> None:
    """Write pictures of one height side by side as a PNG."""
    gap = np.full((HEIGHT, GAP, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (gap, panel)][1:]
    encoded = io.BytesIO()
    Image.fromarray(np.hstack(parts)).save(encoded, "PNG")
    write_whole(out, encoded.getvalue())
