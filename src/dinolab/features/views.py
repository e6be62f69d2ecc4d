"""How an image becomes what an encoder sees: evaluations differ in which part of it they take, and how they fit it to a size."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from dinolab.data.views import eval_view


class Change(Protocol):
    """Something that is done to a decoded image before it is fitted. Its repr names everything that its result depends on."""

    def __call__(self, position: int, image: np.ndarray) -> np.ndarray:
        """From uint8 (H, W, 3) to the same type, of any size; `position` is that of the image in its source."""


class Distortion(Protocol):
    """Something that is done to a view, such as noise. Its repr names everything that its result depends on."""

    def __call__(self, view: np.ndarray, digest: bytes) -> np.ndarray:
        """From uint8 (3, h, w) to the same; `digest` is that of the image's file."""


@dataclass(frozen=True)
class View:
    """How every image of a source is shown to an encoder.

    Attributes:
        size: height and width in pixels.
        fit: "centre", the usual view of evaluations: the short side is resized, and the centre cut out; "squash": both sides are
            resized, whatever the shape; "within": the whole image, shrunk to lie within the size and never enlarged, so that views
            differ in size.
        change: what is done to the image first.
        distortion: what is done to the view last.
    """

    size: tuple[int, int]
    fit: str = "centre"
    change: Change | None = None
    distortion: Distortion | None = None

    @property
    def batch_size(self) -> int:
        """Images in a batch: 64 of 224 x 224 pixels, and fewer of larger ones."""
        height, width = self.size
        return max(1, min(64, 64 * 224 * 224 // (height * width)))

    def key(self) -> str:
        """A text that differs between views, for the name of a file that keeps features."""
        more = [] if self.fit == "centre" else [self.fit]
        more += [repr(done) for done in (self.change, self.distortion) if done]
        return " ".join([f"{self.size[0]} x {self.size[1]}", *more])

    def __call__(self, position: int, image: np.ndarray, digest: bytes = b"") -> np.ndarray:
        """The view, uint8 (3, h, w), of an image uint8 (H, W, 3); `digest` is that of its file."""
        image = self.change(position, image) if self.change else image
        view = self.fitted(image)
        return self.distortion(view, digest) if self.distortion else view

    def fitted(self, image: np.ndarray) -> np.ndarray:
        if self.fit == "centre":
            return eval_view(image, self.size)
        size = self.size if self.fit == "squash" else size_within(image.shape[0], image.shape[1], *self.size)
        return resized(image, size)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image uint8 (H, W, 3) as uint8 (3, height, width), by the bicubic filter with antialias of `eval_view`."""
    view: Any = torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)
    if view.shape[1:] != size:
        view = F.interpolate(view[None], size, mode="bicubic", antialias=True)[0]
    return view.contiguous().numpy()


def size_within(h: int, w: int, height: int, width: int) -> tuple[int, int]:
    """The size that an image of h x w pixels is shrunk to, to lie within height x width: that of Pillow's `thumbnail`."""
    if h <= height and w <= width:
        return h, w
    if width * h >= height * w:  # the height decides
        return height, nearest_shape(height * w / h, lambda n: abs(w / h - n / height))
    return nearest_shape(width * h / w, lambda n: abs(w / h - width / n) if n else math.inf), width


def nearest_shape(side: float, difference: Any) -> int:
    """Of the whole numbers below and above, the one whose shape differs less from the image's; 1 at least."""
    return max(1, min(math.floor(side), math.ceil(side), key=difference))


@dataclass(frozen=True)
class Boxes:
    """Cuts a box out of each image of a source."""

    boxes: tuple[
        tuple[float, float, float, float], ...
    ]  # left, top, right, bottom in pixels; of every image of the source

    def __call__(self, position: int, image: np.ndarray) -> np.ndarray:
        """The part of the box that lies in the image; the whole image if none does."""
        height, width = image.shape[:2]
        left, top, right, bottom = clipped(self.boxes[position], height, width)
        return image[top:bottom, left:right] if left < right and top < bottom else image


def clipped(box: tuple[float, float, float, float], height: int, width: int) -> tuple[int, int, int, int]:
    """A box rounded to whole pixels and clipped to an image: left, top, right, bottom."""
    left, top, right, bottom = map(round, box)
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)
