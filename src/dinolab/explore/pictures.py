"""The images themselves, those of the source and those that are dropped into the page; thumbnails, and encoded for the browser."""

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as Pillow

from dinolab.data.decode import BrokenImage, decode, jpeg_size, read_file, read_image
from dinolab.errors import UserError
from dinolab.explore.collection import Collection, Gone
from dinolab.explore.recent import Recent
from dinolab.files import write_whole

Image = int | str  # the number of an image of the source, or the name of one that was dropped into the page
CELL, CELLS = 48, 16  # pixels of a thumbnail; thumbnails along a side of a page of them
DROPPED, DECODED = 16, 8  # images that are kept in memory
SMALL, SMALL_ONES = 128, 5000  # pixels of the longer side of a small picture; those that are kept in memory
QUALITY = {"quality": 85}
FINE = {"quality": 95, "subsampling": 0}  # of small pictures, which are shown enlarged


class Pictures:
    """Images by their numbers, and those that were dropped into the page by the names "u1", "u2", ...

    Args:
        images: those that are looked at.
        folder: where pages of thumbnails are kept for the next time; None keeps nothing.
    """

    def __init__(self, images: Collection, folder: Path | None) -> None:
        self.images, self.folder = images, folder
        self.dropped: OrderedDict[str, np.ndarray] = OrderedDict()
        self.count = 0
        self.decoded, self.small = Recent(DECODED), Recent(SMALL_ONES)

    def name(self, image: Image) -> str:
        return self.images.locations[image] if isinstance(image, int) else "the dropped image"

    def read(self, image: Image) -> np.ndarray:
        """uint8 (H, W, 3). Raises Gone where it is not there any more, or cannot be read."""
        if isinstance(image, int):
            self.images.check(image)
            return self.decoded.get(image, lambda: read_now(self.images.source.paths[image]))
        if image not in self.dropped:
            raise Gone("this image was dropped into the page a while ago; drop it in again")
        return self.dropped[image]

    def drop(self, data: bytes) -> str:
        """Take an image in; its name. Raises UserError where it cannot be decoded."""
        try:
            picture = decode(data, "the dropped image")
        except BrokenImage as error:
            raise UserError(str(error)) from error
        self.count += 1
        name = f"u{self.count}"
        self.dropped[name] = picture
        if len(self.dropped) > DROPPED:
            self.dropped.popitem(last=False)
        return name

    def jpeg(self, image: Image, side: int) -> bytes:
        """The image, its longer side at most `side` pixels. Small ones are quick: they stand for points on the map."""
        if isinstance(image, str) or side > SMALL:
            return encoded(shrunk(self.read(image), side), "JPEG")
        self.images.check(image)
        return self.small.get((image, side), lambda: small_jpeg(self.images.source.paths[image], side))

    def atlas(self, page: int) -> bytes:
        """A JPEG of 256 thumbnails, those of the images from 256 * page on; black where an image cannot be read."""
        file = self.folder / f"thumbnails_{page:05d}.jpg" if self.folder else None
        if file and file.is_file():
            return file.read_bytes()
        first = CELLS * CELLS * page
        sheet = np.zeros((CELLS * CELL, CELLS * CELL, 3), np.uint8)
        for n, path in enumerate(self.images.source.paths[first : first + CELLS * CELLS]):
            row, column = divmod(n, CELLS)
            place = sheet[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
            place[:] = thumbnail(path)
        data = encoded(sheet, "JPEG")
        if file:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(file, data)
            except OSError:
                pass  # the next time takes longer, nothing else
        return data


def read_now(path: str) -> np.ndarray:
    try:
        return read_image(path)
    except BrokenImage as error:
        raise Gone(str(error)) from error


def thumbnail(path: str) -> np.ndarray:
    """The middle square of an image, uint8 (48, 48, 3); black where it cannot be read."""
    try:
        picture = reduced(path, CELL)
    except BrokenImage:
        return np.zeros((CELL, CELL, 3), np.uint8)
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return cv2.resize(picture[top : top + side, left : left + side], (CELL, CELL), interpolation=cv2.INTER_AREA)


def reduced(path: str, side: int) -> np.ndarray:
    """An image whose shorter side has at least `side` pixels, if it has them: a JPEG is decoded no larger than needed."""
    data = read_file(path)
    size = jpeg_size(data)
    reduction = max((r for r in (1, 2, 4, 8) if size and min(size) >= side * r), default=1)
    return decode(data, path, reduction)


def small_jpeg(path: str, side: int) -> bytes:
    try:
        return encoded(shrunk(reduced(path, side), side), "JPEG")
    except BrokenImage as error:
        raise Gone(str(error)) from error


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture (H, W, 3) whose longer side is at most `side`."""
    factor = side / max(picture.shape[:2])
    if factor >= 1:
        return picture
    height, width = (max(1, round(length * factor)) for length in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def encoded(picture: np.ndarray, kind: str) -> bytes:
    """A picture uint8 (H, W, 3) as a JPEG or PNG."""
    file = io.BytesIO()
    options: dict[str, Any] = FINE if max(picture.shape[:2]) <= SMALL else QUALITY
    Pillow.fromarray(picture).save(file, kind, **(options if kind == "JPEG" else {}))
    return file.getvalue()
