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

from dinolab.data.addresses import HEIF
from dinolab.data.deep import is_dark, read_deep, read_signed
from dinolab.data.headers import HEIC_BRANDS, JPEG, TIFF, check_jpeg, check_unopened, open_image, read_header
from dinolab.data.quiet import quiet
from dinolab.data.storage import describe, read_bytes
from dinolab.errors import UserError, lacking

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are reported by BrokenImage alone

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
    """Read and decode an image: a JPEG, PNG, WebP, BMP, TIFF, PPM, JPEG 2000 or AVIF file, or the first frame of a GIF;
    and HEIC files, where pillow-heif is installed.

    Args:
        path: the image's location (see `locations.py`).

    Returns:
        uint8 (H, W, 3), RGB, turned upright by its EXIF orientation. Transparent parts are white. 16 bits become 8 (see `deep.py`).

    Raises:
        BrokenImage: the file is missing, empty, cut short, not an image, too large, or has channels that are no colours.
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
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
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
    try:
        if data.startswith(JPEG):
            check_jpeg(data)
            return read_plain(data, reduction)
        return read_other(data, path)
    except UserError:
        raise
    except Exception as error:  # on damaged files decoders raise nearly anything: SyntaxError, struct.error, ...
        raise BrokenImage(path, words_of(error)) from error


def words_of(error: Exception) -> str:
    """Why an image cannot be decoded, in a few words."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    if lacking(error):
        return lacking(error)
    if isinstance(error, cv2.error):  # whose text is a line of OpenCV's code
        return "damaged, or of a kind that OpenCV cannot decode"
    if not isinstance(error, ValueError | OSError | SyntaxError | EOFError | MemoryError):  # a decoder that stumbled
        return f"damaged ({type(error).__name__})"
    reason = str(error).strip()
    return reason.splitlines()[0] if reason else type(error).__name__


def read_other(data: bytes, path: str | PathLike[str]) -> np.ndarray:
    """Decode an image that is not a JPEG. Raises ValueError, and whatever decoders raise."""
    try:
        header = read_header(data)
    except (OSError, SyntaxError):  # Pillow does not open it
        if data.startswith(TIFF):
            raise ValueError("damaged, or a TIFF of a kind that cannot be read") from None
        if data[4:12] in HEIC_BRANDS and not HEIF:
            raise ValueError("HEIC, which needs pillow-heif: pip install pillow-heif") from None
        if not check_unopened(data):
            raise
        with quiet():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None or image.dtype != np.uint8 or image.shape[2:] == (4,):  # whose transparency would be lost
            raise
        return read_plain(data)
    if header.alpha and header.deep and is_dark(data):
        raise ValueError("16 bits and transparency, with values of a smaller range; convert it to 8 bits")
    if header.signed:
        return read_signed(data, path)
    if header.alpha or header.pillow:
        return read_with_pillow(data)
    return read_deep(data, header.key, path) if header.deep else read_plain(data)


def read_plain(data: bytes, reduction: int = 1) -> np.ndarray:
    """Decode with OpenCV, or with Pillow where that fails, to uint8 (H, W, 3), RGB."""
    with quiet():
        image = cv2.imdecode(np.frombuffer(data, np.uint8), READ_RGB[reduction])
    return read_with_pillow(data) if image is None else image


def read_with_pillow(data: bytes) -> np.ndarray:
    """Decode to uint8 (H, W, 3), RGB, with transparent parts composited onto white. Raises what Pillow raises."""
    with quiet(), warnings.catch_warnings(action="ignore"), open_image(data) as image:
        if image.mode == "I" and image.format == "PPM":  # scaled to 16 bits by Pillow
            image.load()  # NumPy would hide what is raised
            return np.repeat((np.array(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
        if image.mode in ("F", "I"):
            raise ValueError("its pixels have 32 bits, and their range is unknown; convert it to 8 or 16 bits")
        upright = ImageOps.exif_transpose(image)
        if not upright.has_transparency_data:
            return np.array(upright.convert("RGB"))
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        return np.array(Image.alpha_composite(white, upright).convert("RGB"))
