"""The header of an image, read before a pixel is decoded: its size, its channels, and the decoder that gets them right.

Nothing here trusts a file: a header may declare more pixels than there is memory for, and channels that are no colours.
"""

import io
import os
import re
import struct
import warnings
from functools import cache
from typing import Any, NamedTuple

from PIL import Image, TiffImagePlugin

from dinolab.data.addresses import HEIF
from dinolab.errors import UserError

JPEG, PNG, BMP = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Others are refused: among those that Pillow knows is EPS, for which it starts Ghostscript.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
MAX_PIXELS = 178_956_970  # Pillow's own limit: an image of this size takes half a GB
OPENCV_PIXELS = 1 << 30  # a limit that cannot be raised while OpenCV runs
SMALLEST_JPEG = 512  # pixels that a byte of a JPEG can stand for at most: a block of 64 takes a bit or more
SMALLEST_DEFLATE = 1032  # bytes that a byte of a PNG can stand for at most
SMALLEST_OTHER = 4096  # pixels that a byte of another format can stand for at most
EMPTY = 1 << 24  # pixels up to which an image of such a format is read whatever its size in bytes
HEIC_BRANDS = (
    b"ftypheic",
    b"ftypheix",
    b"ftypheim",
    b"ftypheis",
    b"ftyphevc",
    b"ftypmif1",
    b"ftypmsf1",
)  # from byte 4 on
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3}  # channels by TIFF's tag PhotometricInterpretation
ALPHA = ((1,), (2,), (999,))  # TIFF's tag ExtraSamples where the one channel beside the colours is transparency
KINDS = {1: "whole numbers", 2: "signed whole numbers", 3: "floats"}  # TIFF's tag SampleFormat


LIMIT, WHITE = "DINOLAB_MAX_PIXELS", "DINOLAB_WHITE"  # environment variables that change how images are decoded


class Header(NamedTuple):
    """What decides how an image is decoded."""

    alpha: bool = False  # it has transparent parts
    deep: bool = False  # its channels have 16 bits
    signed: bool = False  # and may be negative
    pillow: bool = False  # OpenCV would get its values wrong
    key: tuple[int, ...] | None = None  # the colour that stands for transparency in an image of 16 bits


def max_pixels() -> int:
    """The largest number of pixels that is decoded. Raises UserError where DINOLAB_MAX_PIXELS is not a number."""
    limit = number_in(LIMIT, MAX_PIXELS)
    if limit > MAX_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # which the user asked for
    return limit


def settings() -> str:
    """The environment variables that change how images are decoded, with their values; "" where none is set."""
    return " ".join(f"{name}={os.environ[name]}" for name in (LIMIT, WHITE) if os.environ.get(name))


def check_settings() -> None:
    """Raises UserError where one of these variables is wrong: before images are loaded, in processes whose errors would be tracebacks."""
    for name in (LIMIT, WHITE):
        number_in(name, 1)


def number_in(variable: str, default: int) -> int:
    """The positive whole number in an environment variable, or the default. Raises UserError for anything else."""
    text = os.environ.get(variable, "")
    if text and not re.fullmatch("0*[1-9][0-9]{0,14}", text):
        raise UserError(f"{variable}={text}: a positive whole number is needed")
    return int(text) if text else default


def check_size(width: int, height: int) -> None:
    """Raises ValueError where an image is too large to be decoded."""
    pixels, limit = width * height, max_pixels()
    if pixels > limit:
        way_out = f"if that is right, set the environment variable {LIMIT}"
        raise ValueError(f"{width:,} x {height:,} pixels, more than {limit:,}; {way_out}")
    if pixels > OPENCV_PIXELS:
        raise ValueError(f"{width:,} x {height:,} pixels; OpenCV decodes no more than {OPENCV_PIXELS:,}")


@cache
def formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow has, with its plugins."""
    Image.init()
    if HEIF:
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_image(data: bytes) -> Image.Image:
    """Open an encoded image with Pillow, without decoding it. Raises what Pillow raises; ValueError for too many pixels."""
    limit = max_pixels()
    try:
        return Image.open(io.BytesIO(data), formats=formats())
    except Image.DecompressionBombError as error:
        way_out = f"if that is right, set the environment variable {LIMIT}"
        raise ValueError(f"more than {limit:,} pixels; {way_out}") from error
    except ValueError:
        if not data.startswith(PNG):
            raise
        return Image.open(io.BytesIO(without_texts(data)), formats=("PNG",))  # Pillow refuses long texts


def without_texts(data: bytes) -> bytes:
    """A PNG without its texts and its colour profile."""
    kept, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in PNG_TEXTS:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def check_jpeg(data: bytes) -> None:
    """Raises ValueError where the header of a JPEG declares too many pixels, or more than its bytes can hold."""
    size = jpeg_frame(data)
    if size is None:
        return  # the decoder will refuse it
    check_size(*size)
    if size[0] * size[1] > SMALLEST_JPEG * len(data):
        raise ValueError(f"its header declares {size[0]:,} x {size[1]:,} pixels, too many for {len(data):,} bytes")


def jpeg_frame(data: bytes) -> tuple[int, int] | None:
    """Width and height in the frame header of a JPEG, as they are stored; None where there is none before the pixels."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0:
        while data[at : at + 1] == b"\xff":
            at += 1
        head = data[at : at + 8]
        if len(head) < 8 or head[0] in (0xD9, 0xDA):
            return None
        if 0xC0 <= head[0] <= 0xCF and head[0] not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[4:8])
            return width, height
        alone = head[0] in (0, 1) or 0xD0 <= head[0] <= 0xD8
        at += 1 if alone else 1 + max(2, int.from_bytes(head[1:3], "big"))
    return None


def looks_like_image(head: bytes) -> bool:
    """Whether a file with these first 16 bytes is an image of one of the usual formats."""
    return (
        head.startswith((b"\xff\xd8\xff", PNG, b"GIF8", *TIFF, b"\0\0\0\x0cjP  "))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == BMP and head[6:10] == bytes(4))
        or head[4:12] in (b"ftypavif", b"ftypavis", *(HEIC_BRANDS if HEIF else ()))
    )


def read_header(data: bytes) -> Header:
    """Read the header of an image that is not a JPEG.

    Raises:
        ValueError: it has too many pixels, or channels that are not grey, RGB or CMYK with or without transparency.
        Exception: Pillow cannot open it, for whatever reason.
    """
    with warnings.catch_warnings(action="ignore"):
        bits, signed = tiff_samples(data) if data.startswith(TIFF) else (png_bits(data), False)
        image = open_image(data)
    with image:
        check_size(*image.size)
        if (pixels := image.width * image.height) > max(EMPTY, SMALLEST_OTHER * len(data)):
            raise ValueError(f"its header declares {pixels:,} pixels, too many for {len(data):,} bytes")
        deep = bits == 16 or image.mode.startswith("I;16")
        key = image.info.get("transparency") if deep else None
        if isinstance(key, int | tuple):
            return Header(deep=True, key=(key,) if isinstance(key, int) else key)
        alpha = image.has_transparency_data and not image.mode.startswith("I")
        pillow = image.format == "HEIF" or (image.format == "PPM" and image.mode in ("RGB", "I", "L", "F"))
        return Header(alpha, deep, signed, pillow)


def png_bits(data: bytes) -> int:
    """Bits of a channel in a PNG; 0 for another format.

    Raises ValueError where the header declares more pixels, or a chunk more bytes, than there can be: OpenCV would make room for them.
    """
    if not data.startswith(PNG) or len(data) < 26:
        return 0
    width, height, bits, colours = struct.unpack(">IIBB", data[16:26])
    channels = {2: 3, 4: 2, 6: 4}.get(colours, 1)
    if width * height * channels * bits > 8 * SMALLEST_DEFLATE * len(data):
        raise ValueError(f"its header declares {width:,} x {height:,} pixels, too many for {len(data):,} bytes")
    at = 8
    while at + 8 <= len(data):
        at += 8 + int.from_bytes(data[at : at + 4], "big")
        if at > len(data):
            raise ValueError("cut short: a PNG whose last chunk is not whole")
        at += 4  # its checksum
    return bits


def tiff_samples(data: bytes) -> tuple[int, bool]:
    """Bits of a channel in a TIFF, and whether its numbers are signed. Raises ValueError where no RGB can be made of them."""
    tags: Any = TiffImagePlugin.ImageFileDirectory_v2(data[:16] if 43 in data[2:4] else data[:8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    bits, channels = max(tags.get(258, (1,))), int(tags.get(277, 1))
    kind = max(tags.get(339, (1,)))
    if kind == 3 or bits > 16 or (kind == 2 and (bits, channels) != (16, 1)):
        what = f"{KINDS.get(kind, 'numbers')} of {bits} bits"
        raise ValueError(f"its pixels are {what}, and their range is unknown; convert it to 8 or 16 bits")
    colours, extra = COLOURS.get(int(tags.get(262, 1)), 3), tuple(tags.get(338, ()))
    if channels not in (colours, colours + 1):
        what = (
            "3 channels, and no tag says that they are RGB"
            if channels == 3
            else f"{channels} channel{'s' * (channels > 1)}"
        )
        raise ValueError(f"{what}; dinolab reads grey and RGB, with or without transparency")
    if channels == colours + 1 and extra not in ALPHA:
        raise ValueError(f"{channels} channels, and no tag says that the last is transparency: keep {colours}")
    return bits, kind == 2


def check_unopened(data: bytes) -> bool:
    """Whether OpenCV may try an image that Pillow does not open. Raises ValueError where it has too many pixels."""
    if data.startswith(PNG) and len(data) > 24:
        check_size(*struct.unpack(">II", data[16:24]))
        png_bits(data)
    elif data.startswith(BMP) and len(data) > 26:
        width, height = struct.unpack("<HH", data[18:22]) if data[14] == 12 else struct.unpack("<ii", data[18:26])
        check_size(abs(width), abs(height))
    else:
        return False
    return True
