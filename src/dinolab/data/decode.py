"""Decoding of image files to 8-bit RGB.

OpenCV decodes, since it releases the GIL; Pillow decodes images with transparency and formats that OpenCV does not know.
"""

import io
import os
import warnings
from os import PathLike

import cv2
import numpy as np
from PIL import Image, ImageOps

from dinolab.data.storage import describe, read_bytes

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are reported by BrokenImage alone

JPEG = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
ORIENTATION = 0x0112  # the tag in EXIF
READ_RGB = {  # OpenCV's flags for decoding at 1/1, 1/2, 1/4 and 1/8 of the size
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2
    | cv2.IMREAD_COLOR_RGB,  # REDUCED_COLOR cannot be used: its bit for BGR excludes that for RGB
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
}


class BrokenImage(Exception):
    """An image that cannot be read.

    Attributes:
        path: its location in words.
        reason: why, in a few words.
    """

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = describe(os.fspath(path)), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_image(path: str | PathLike[str]) -> np.ndarray:
    """Read and decode an image: a JPEG, PNG, WebP, BMP or TIFF file, or the first frame of a GIF.

    Args:
        path: the image's location (see `locations.py`).

    Returns:
        uint8 (H, W, 3), RGB, turned upright by its EXIF orientation. Transparent parts are white, and 16 bits are scaled to 8.

    Raises:
        BrokenImage: the file is missing, empty, cut short, or not an image.
    """
    return decode(read_file(path), path)


def read_file(path: str | PathLike[str]) -> bytes:
    """The encoded image at a location. Raises BrokenImage if it is missing, empty, or a JPEG that was cut short."""
    try:
        data = read_bytes(os.fspath(path))
    except OSError as error:
        raise BrokenImage(path, (error.strerror or str(error)).lower()) from error
    if not data:
        raise BrokenImage(path, "empty file")
    if data.startswith(JPEG) and data.rfind(JPEG_END) < 0:  # searched from the end, where it usually is
        raise BrokenImage(path, "cut short: a JPEG without its end marker")
    return data


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Read height and width of a JPEG, as they are once it is upright, from its header; None for anything else."""
    if not data.startswith(JPEG):
        return None
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            exif = Image.Exif()  # image.getexif() would use the orientation in XMP, too, which OpenCV ignores
            exif.load(image.info.get("exif", b""))
            sideways = exif.get(ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # decoding will report what is wrong
        return None
    return (width, height) if sideways else (height, width)


def decode(data: bytes, path: str | PathLike[str], reduction: int = 1) -> np.ndarray:
    """Decode the bytes of an image; otherwise as `read_image`.

    Args:
        data: the encoded image.
        path: its location, for messages.
        reduction: 2, 4 or 8 decodes a JPEG at 1/2, 1/4 or 1/8 of its size, its sides rounded up, in less time.
    """
    is_jpeg = data.startswith(JPEG)
    try:
        if not is_jpeg and has_alpha(data):  # OpenCV would ignore the alpha channel
            return read_with_pillow(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), READ_RGB[reduction if is_jpeg else 1])
        return read_with_pillow(data) if image is None else image
    except Exception as error:  # on damaged files decoders raise nearly anything: SyntaxError, struct.error, ...
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error).strip()
        raise BrokenImage(path, reason.splitlines()[0] if reason else type(error).__name__) from error


def has_alpha(data: bytes) -> bool:
    """Whether the header of an image declares transparency. No pixel is decoded."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            return image.has_transparency_data and not image.mode.startswith("I")
    except Exception:  # OpenCV may still read it
        return False


def read_with_pillow(data: bytes) -> np.ndarray:
    """Decode to uint8 (H, W, 3), RGB, with transparent parts composited onto white. Raises what Pillow raises."""
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
        if image.mode in ("F", "I"):
            raise ValueError("its pixels have 32 bits, and their range is unknown; convert it to 8 or 16 bits")
        upright = ImageOps.exif_transpose(image)
        if not upright.has_transparency_data:
            return np.array(upright.convert("RGB"))
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        return np.array(Image.alpha_composite(white, upright).convert("RGB"))
