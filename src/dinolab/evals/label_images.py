"""Images whose pixels are labels: masks of objects, read from PNGs and written with a palette."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dinolab.data.decode import BrokenImage, read_file, words_of
from dinolab.data.headers import open_image
from dinolab.errors import UserError
from dinolab.files import write_whole

LARGEST = 255  # label in a PNG with a palette


class LabelImage(NamedTuple):
    """A label for each pixel."""

    labels: np.ndarray  # uint8 (H, W)
    palette: bytes  # red, green and blue of each label from 0 on; empty where the file has none


def read_labels(path: Path) -> LabelImage:
    """Read a PNG with a palette, or a grey one; the labels are the numbers in the file. Raises UserError for anything else."""
    with opened(path) as image:
        image.load()  # NumPy would hide what is raised
        palette = bytes(image.getpalette() or b"") if image.mode == "P" else b""
        array = np.array(image)
    if array.ndim == 3 and (array == array[..., :1]).all():  # grey, saved as a colour image
        array = array[..., 0]
    if array.ndim != 2:
        way_out = "save the mask as a PNG with a palette, or as a grey one of labels"
        raise UserError(f"{path}: a colour image without a palette; {way_out}")
    if array.size and not 0 <= array.min() <= array.max() <= LARGEST:
        limit = f"there can be {LARGEST} objects at most, numbered from 1"
        raise UserError(f"{path}: has the label {array.max()}; {limit}")
    return LabelImage(array.astype(np.uint8), palette)


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image, from its header. Raises UserError where it cannot be read."""
    with opened(path) as image:
        return image.height, image.width


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image that is not yet decoded. Raises UserError where it cannot be read, or decoded within the block."""
    try:
        with open_image(read_file(path)) as image:
            yield image
    except Exception as error:  # on damaged files decoders raise nearly anything
        cause = error.reason if isinstance(error, BrokenImage) else words_of(error)
        raise UserError(f"{path}: cannot be read ({cause}); replace this image") from error


def write_labels(path: Path, image: LabelImage) -> None:
    """Write labels as a PNG with their palette; labels without a colour in it get that of `colours`."""
    picture = Image.fromarray(image.labels)
    picture.putpalette(image.palette + colours().tobytes()[len(image.palette) :])
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    write_whole(path, encoded.getvalue())


def colours() -> np.ndarray:
    """The colours that Pascal VOC gives to labels, and DAVIS to objects, uint8 (256, 3): black, dark red, dark green, ...

    The bits of a label are dealt out in turn to red, green and blue, beginning with their highest bits.
    """
    labels, found = np.arange(LARGEST + 1), np.zeros((LARGEST + 1, 3), np.uint8)
    for bit in range(8):
        found[:, bit % 3] |= ((labels >> bit & 1) << 7 - bit // 3).astype(np.uint8)
    return found
