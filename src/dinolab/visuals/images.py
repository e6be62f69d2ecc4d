"""Images that a user names on the command line: found, read, and resized to whole patches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.data.addresses import IMAGES
from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.sources.walk import by_number, walk
from dinolab.data.views import resize
from dinolab.errors import UserError
from dinolab.models.encoder import refuse_infinite

USUAL = 480  # pixels of the short side, unless the image is smaller or the encoder was trained on larger ones
MOST_PATCHES = 10_000  # in an image: the memory of attention weights grows with their square


class Found(NamedTuple):
    path: Path
    name: str  # path within the folder that the user named, or the file's name: its mask has the same


def find_images(words: Sequence[str]) -> list[Found]:
    """List image files, and the images in folders at any depth. Within a folder, frame2 comes before frame10.

    Args:
        words: paths of files and folders.

    Raises:
        UserError: a path does not exist, or a folder holds no image.
    """
    found = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            try:
                inside = [path / name for name in walk(word).names]
            except OSError as error:
                raise UserError(f"{word}: cannot be opened ({error.strerror})") from error
            if not inside:
                raise UserError(f"{word}: no image in this folder; name images ({', '.join(IMAGES)}) or their folder")
            found += [Found(p, str(p.relative_to(path))) for p in sorted(inside, key=by_number)]
        elif path.is_file():
            found.append(Found(path, path.name))
        else:
            raise UserError(f"{word}: no such image or folder")
    return found


def spread(found: Sequence[Any], most: int) -> list[Any]:
    """Choose at most `most` of the items, evenly spaced from the first to the last."""
    if len(found) <= most:
        return list(found)
    return [found[i] for i in np.linspace(0, len(found) - 1, most).round().astype(int)]


def read_picture(path: Path) -> np.ndarray:
    """Read an image as uint8 (H, W, 3). Raises UserError if it cannot be read."""
    try:
        return read_image(path)
    except BrokenImage as error:
        raise UserError(f"{error}; leave it out or replace it") from error


def read_mask(image: Found, folder: Path) -> Tensor:
    """Read an image's mask, bool (H, W), from the file of the same name in `folder`, with any ending of an image file.

    Every pixel that is not black belongs to the object. Raises UserError if there is no such file.
    """
    beside = (folder / image.name).with_suffix("")
    paths = [beside.with_name(beside.name + ending) for ending in (".png", *IMAGES)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"{paths[0]}: no such mask; each image needs a mask of the same name in masks={folder}")
    return torch.from_numpy((read_picture(path) > 0).any(2))


def usual_size(encoder: Any, image: np.ndarray) -> int:
    """Return the short side in pixels to which an image (H, W, 3) is resized for this encoder, unless the user sets size=."""
    return max(min(*image.shape[:2], USUAL), getattr(encoder, "image_size", 224))


def fit_patches(image: np.ndarray, patch_size: int, size: int, name: str) -> Tensor:
    """Resize an image so that both sides are whole multiples of the patch.

    Args:
        image: uint8 (H, W, 3).
        patch_size: side of a patch in pixels.
        size: short side in pixels, met as closely as the patch allows.
        name: of the image, for the message.

    Returns:
        uint8 (3, H', W').

    Raises:
        UserError: there would be more patches than attention can handle.
    """
    factor = size / min(image.shape[:2])
    rows, columns = (max(1, round(side * factor / patch_size)) for side in image.shape[:2])
    if rows * columns > MOST_PATCHES:
        raise UserError(
            f"{name}: {rows} x {columns} patches, at most {MOST_PATCHES:,} can be shown; set size= below {size}"
        )
    resized = resize(image, rows * patch_size, columns * patch_size)
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))


def patch_features(encoder: Any, image: Tensor) -> Tensor:
    """Compute the patch features (h, w, D) of an image, uint8 (3, H, W), and return them on the CPU.

    Raises UserError where they are not finite.
    """
    patches = encoder(image[None]).patches.float().cpu()
    refuse_infinite(patches, encoder)
    return patches[0]


def as_fractions(at: Sequence[float], height: int, width: int) -> tuple[float, float]:
    """Convert a point to fractions of an image's width and height.

    Args:
        at: x and y, from the left and top: fractions if both are below 1, otherwise pixels.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Raises:
        UserError: the point lies outside of the image.
    """
    x, y = at
    if not (0 <= x < 1 and 0 <= y < 1):
        x, y = x / width, y / height
    if not (0 <= x < 1 and 0 <= y < 1):
        raise UserError(f"at={at[0]:g},{at[1]:g} lies outside of the first image, which has {width} x {height} pixels")
    return x, y
