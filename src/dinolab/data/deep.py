"""Images of 16 bits a channel, scaled to 8.

Cameras and scanners store 12 bits in 16, and nothing in the file says so. The rule: an image without a value above 4,095 is scaled
by 4,095, any other by 65,535. The first image that is scaled by 4,095, and the first whose values look like 14 bits, are named in
a warning. The environment variable DINOLAB_WHITE sets the value that becomes 255, for all images of 16 bits.
"""

import logging
import mmap
import os
import warnings
from os import PathLike

import cv2
import numpy as np
from PIL import ImageOps

from dinolab.data.headers import WHITE, number_in, open_image
from dinolab.data.quiet import quiet
from dinolab.data.storage import describe

FULL, FULL_SIGNED, TWELVE, FOURTEEN = 0xFFFF, 0x7FFF, 0xFFF, 0x3FFF  # largest value in 16, 15, 12 and 14 bits
named = mmap.mmap(-1, 2)  # whether an image of 14 and one of 12 bits has been named: memory that forked processes share

log = logging.getLogger(__name__)


def read_deep(data: bytes, key: tuple[int, ...] | None, path: str | PathLike[str]) -> np.ndarray:
    """Decode an image of unsigned 16 bits.

    Args:
        data: the encoded image.
        key: the grey or RGB value that stands for transparency, if there is one; such pixels become white.
        path: its location, for the warning.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ValueError: it cannot be decoded.
    """
    values = decode_with(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)  # BGR: OpenCV's flag for RGB errs at 16 bits
    white = choose_white(int(values.max()), FULL, path)
    image = decode_with(data, cv2.IMREAD_COLOR_RGB) if white == FULL else scale(values[..., ::-1], white)
    if key is not None:
        image[(values == np.array(key, np.uint16)[::-1]).all(axis=2)] = 255
    return image


def decode_with(data: bytes, flags: int) -> np.ndarray:
    """Decode with OpenCV's flags. Raises ValueError where that fails."""
    with quiet():
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("16 bits, and damaged or neither grey nor RGB; convert it to 8 bits")
    return image


def read_signed(data: bytes, path: str | PathLike[str]) -> np.ndarray:
    """Decode a grey image of signed 16 bits, as `read_deep`. Raises ValueError where there are negative values."""
    with quiet(), warnings.catch_warnings(action="ignore"), open_image(data) as image:
        image.load()  # NumPy would hide what is raised
        values = np.array(ImageOps.exif_transpose(image))
    if values.min() < 0:
        raise ValueError(f"it has negative values, down to {values.min()}: shift them so that 0 is black")
    return scale(np.repeat(values[..., None], 3, axis=2), choose_white(int(values.max()), FULL_SIGNED, path))


def is_dark(data: bytes) -> bool:
    """Whether an image of 16 bits with transparency has colours whose white is not 65,535."""
    with quiet():
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim < 3:
        return False
    most = int(values[..., : values.shape[2] - 1].max())
    return number_in(WHITE, FULL) != FULL or 0 < most <= TWELVE


def choose_white(most: int, full: int, path: str | PathLike[str]) -> int:
    """The value that becomes 255, in an image whose largest value is `most` of `full`. Raises UserError for a wrong DINOLAB_WHITE."""
    if given := number_in(WHITE, 0):
        return given
    white = full if most > TWELVE or most == 0 else TWELVE
    if 0 < most <= FOURTEEN:
        warn_once(white, describe(os.fspath(path)), most, full)
    return white


def warn_once(white: int, name: str, most: int, full: int) -> None:
    """Log a warning about the first image that is scaled by this value, in this process and those that it forks."""
    kind = int(white == TWELVE)
    if not named[kind]:
        named[kind] = 1
        log.warning(
            "%s: 16 bits, but no value above %s of %s: this and images like it are scaled so that %s becomes 255; "
            "set the environment variable DINOLAB_WHITE to the right value",
            name, f"{most:,}", f"{full:,}", f"{white:,}",
        )  # fmt: skip


def scale(values: np.ndarray, white: int) -> np.ndarray:
    """Values from 0 to `white` as uint8 from 0 to 255; larger ones become 255."""
    return np.rint(np.minimum(values, white) * (255 / white)).astype(np.uint8)
