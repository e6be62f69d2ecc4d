"""The pictures that a user names: found, read, and sized to whole patches."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.data.addresses import IMAGES
from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.views import resize
from dinolab.errors import UserError

USUAL = 480  # pixels of the short side, unless the image is smaller or the encoder was trained with more
MOST_PATCHES = 10_000  # of an image: attention's weights take the square of it


class Found(NamedTuple):
    path: Path
    name: str  # within the folder that was named, or the file's own: where its mask is looked for


def find_images(words: Sequence[str]) -> list[Found]:
    """The files named and the images of the folders named, at any depth, in the order of the numbers in their names.

    Raises UserError if one is not there, or a folder holds none.
    """
    found = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside = [p for p in path.rglob("*") if p.suffix.lower() in IMAGES and not p.name.startswith(".")]
            if not inside:
                raise UserError(f"{word}: no image in this folder; name images ({', '.join(IMAGES)}) or their folder")
            found += [Found(p, str(p.relative_to(path))) for p in sorted(inside, key=by_number)]
        elif path.is_file():
            found.append(Found(path, path.name))
        else:
            raise UserError(f"{word}: no such image or folder")
    return found


def by_number(path: Path) -> list[str | int]:
    """A key that sorts frame2 before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def spread(found: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly spaced from the first to the last."""
    if len(found) <= most:
        return list(found)
    return [found[i] for i in np.linspace(0, len(found) - 1, most).round().astype(int)]


def read_picture(path: Path) -> np.ndarray:
    """uint8 (H, W, 3). Raises UserError if it cannot be read."""
    try:
        return read_image(path)
    except BrokenImage as error:
        raise UserError(f"{error}; leave it out or replace it") from error


def read_mask(image: Found, folder: Path) -> Tensor:
    """The image's mask, bool (H, W): what is not black in the image file of the same name, with any ending, in `folder`."""
    beside = (folder / image.name).with_suffix("")
    paths = [beside.with_name(beside.name + ending) for ending in (".png", *IMAGES)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"{paths[0]}: no such mask; each image needs one of the same name in --masks {folder}")
    return torch.from_numpy((read_picture(path) > 0).any(2))


def usual_size(encoder: Any, image: np.ndarray) -> int:
    """The short side at which this encoder is shown images like this one (H, W, 3)."""
    return max(min(*image.shape[:2], USUAL), getattr(encoder, "image_size", 224))


def fit_patches(image: np.ndarray, patch_size: int, size: int, name: str) -> Tensor:
    """uint8 (H, W, 3) -> uint8 (3, H', W'), the short side about `size`, both whole multiples of the patch.

    Raises UserError if that makes more patches than attention can take.
    """
    factor = size / min(image.shape[:2])
    rows, columns = (max(1, round(side * factor / patch_size)) for side in image.shape[:2])
    if rows * columns > MOST_PATCHES:
        raise UserError(
            f"{name}: {rows} x {columns} patches, at most {MOST_PATCHES:,} are shown; take a --size below {size}"
        )
    resized = resize(image, rows * patch_size, columns * patch_size)
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))


def as_fractions(at: Sequence[float], height: int, width: int) -> tuple[float, float]:
    """A point in fractions of width and height: as it is if both are below 1, else from pixels. Raises UserError outside."""
    x, y = at
    if not (0 <= x < 1 and 0 <= y < 1):
        x, y = x / width, y / height
    if not (0 <= x < 1 and 0 <= y < 1):
        raise UserError(f"--at {at[0]:g} {at[1]:g}: outside of the first image, {width} x {height} pixels")
    return x, y
