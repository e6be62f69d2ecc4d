"""Pictures in the page: small JPEGs as data URIs, each with its alt text, in grids."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dinolab.data.decode import BrokenImage, read_image
from dinolab.visuals.sheet import Cell

SIDE = 200  # pixels of the longer side, at most
LEAST = 96  # below, pictures are enlarged by a whole factor, or the browser would blur them
QUALITY = 82  # of JPEGs


class Picture(NamedTuple):
    uri: str
    alt: str
    caption: str = ""
    mark: str = ""  # "right" or "wrong" frames it
    width: int = 0
    height: int = 0
    link: str = ""  # an address that a click opens


class Grid(NamedTuple):
    """Rows of pictures under a heading and a note; without columns they flow."""

    title: str
    note: str
    rows: list[list[Picture]]
    flows: bool = False


def picture(pixels: np.ndarray, alt: str, caption: str = "", mark: str = "", side: int = SIDE) -> Picture:
    """A JPEG of an image (H, W, 3), uint8 or floats in [0, 1], whose longer side has at most `side` pixels."""
    if pixels.dtype != np.uint8:
        pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    height, width = pixels.shape[:2]
    if max(height, width) > side:
        factor = side / max(height, width)
        sides = max(1, round(width * factor)), max(1, round(height * factor))
        pixels = cv2.resize(pixels, sides, interpolation=cv2.INTER_AREA)
    elif max(height, width) < LEAST:
        factor = -(-LEAST // max(height, width))
        pixels = pixels.repeat(factor, 0).repeat(factor, 1)
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    height, width = pixels.shape[:2]
    return Picture(data_uri(jpeg.tobytes(), "image/jpeg"), alt, caption, mark, width, height)


def photo(path: str, alt: str, caption: str, mark: str = "") -> Picture | None:
    """The image in a file; None where it cannot be read."""
    try:
        return picture(read_image(path), alt, caption, mark)
    except BrokenImage:
        return None


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def length_and_size(video: Path) -> str:
    """For example "18 s, 1.2 MB"; the size alone where the video cannot be read."""
    opened = cv2.VideoCapture(str(video))
    frames, rate = opened.get(cv2.CAP_PROP_FRAME_COUNT), opened.get(cv2.CAP_PROP_FPS)
    length = f"{frames / rate:.0f} s, " if frames > 0 and rate > 0 else ""
    return f"{length}{video.stat().st_size / 1e6:.1f} MB"


def from_cells(cells: Sequence[Cell | None], what: str) -> list[Picture]:
    """The cells of a sheet's row (visuals/sheet.py); `what` begins their alt texts."""
    return [picture(cell.picture, f"{what}: {cell.title}", cell.title) for cell in cells if cell]
