"""Any image file to 8-bit RGB. OpenCV decodes (it releases the GIL); Pillow what is transparent or new to OpenCV."""

import io
import warnings
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # BrokenImage says it, once

JPEG = b"\xff\xd8"
JPEG_END = b"\xff\xd9"


class BrokenImage(Exception):
    """An image that cannot be read: `path`, and `reason` in a few words."""

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_image(path: str | PathLike[str]) -> np.ndarray:
    """JPEG, PNG, WebP, BMP, TIFF or a GIF's first frame -> uint8 (H, W, 3), RGB, upright by its EXIF orientation.

    Transparent parts show white. 16 bits are scaled to 8. Raises BrokenImage if the file is missing, empty, cut short,
    or not an image.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BrokenImage(path, (error.strerror or str(error)).lower()) from error
    if not data:
        raise BrokenImage(path, "empty file")
    is_jpeg = data.startswith(JPEG)
    if is_jpeg and JPEG_END not in data:
        raise BrokenImage(path, "cut short: a JPEG without its end marker")
    try:
        if not is_jpeg and has_alpha(data):  # OpenCV would show what the alpha channel hides
            return read_with_pillow(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        return read_with_pillow(data) if image is None else image
    except Exception as error:  # on damaged files decoders raise nearly anything: SyntaxError, struct.error, ...
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error).strip()
        raise BrokenImage(path, reason.splitlines()[0] if reason else type(error).__name__) from error


def has_alpha(data: bytes) -> bool:
    """Whether the header declares transparency; no pixel is decoded."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            return image.has_transparency_data and not image.mode.startswith("I")
    except Exception:  # OpenCV may still read it
        return False


def read_with_pillow(data: bytes) -> np.ndarray:
    """uint8 (H, W, 3), transparent parts composited onto white. Raises what Pillow raises."""
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
        if image.mode in ("F", "I"):
            raise ValueError("pixels of 32 bits, whose range is unknown; convert it to 8 or 16 bits")
        upright = ImageOps.exif_transpose(image)
        if not upright.has_transparency_data:
            return np.array(upright.convert("RGB"))
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        return np.array(Image.alpha_composite(white, upright).convert("RGB"))
