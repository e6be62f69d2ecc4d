"""Copies that are made of a user's own images: saved as JPEG of low quality, cropped, or changed strongly in several ways.

The blocks are those of Copydays, with fewer steps. In place of its strong copies, which people made by hand, images are cropped,
turned, shrunk onto a plain ground, blurred, changed in colour, partly covered and saved as JPEG, all by random amounts.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from dinolab.data import draws
from dinolab.data.views import colour_jitter

JPEG, CROP = "jpegqual", "crops"
KINDS = ("strong", *(f"{JPEG}/{quality}" for quality in (75, 20, 8, 3)), *(f"{CROP}/{share}" for share in (20, 50, 80)))
RECIPE = 1  # to be raised when the same seed gives other copies
STREAM = 1 << 32  # numbers of draws for the copies lie above those for the choice of originals
SMALLEST = 8  # pixels of a side that a crop keeps


@dataclass(frozen=True)
class MadeCopies:
    """Makes the copy of one kind of each image of a source. The same seed and position give the same copy."""

    kind: str  # one of KINDS
    seed: int
    recipe: int = RECIPE  # so that features of earlier copies are not taken for those of these

    def __call__(self, position: int, image: np.ndarray) -> np.ndarray:
        """A copy, uint8 (h, w, 3), of an image uint8 (H, W, 3)."""
        generator = draws.rng(self.seed, draws.COPIES, STREAM * (1 + KINDS.index(self.kind)) + position)
        name, _, amount = self.kind.partition("/")
        if name == JPEG:
            return saved(image, int(amount))
        if name == CROP:
            return cropped(image, 1 - int(amount) / 100, generator)
        return strong(image, generator)


def saved(image: np.ndarray, quality: int) -> np.ndarray:
    """The image after it was saved as JPEG of this quality."""
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def cropped(image: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """A part of the image of the same shape, with this share of its area, at a random place."""
    h, w = image.shape[:2]
    height, width = (min(side, max(SMALLEST, round(side * share**0.5))) for side in (h, w))
    top, left = generator.integers(h - height + 1), generator.integers(w - width + 1)
    return image[top : top + height, left : left + width]


def strong(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A crop of 60 to 100 % of the area, changed in colour, blurred, turned by up to 10 degrees, shrunk to 70 to 100 % on a plain
    ground, with a plain patch over it, and saved as JPEG of quality 20 to 60."""
    image = cropped(image, generator.uniform(0.6, 1), generator)
    h, w = image.shape[:2]
    factors = [*generator.uniform(0.7, 1.3, 3), generator.uniform(-0.03, 0.03)]
    image = colour_jitter(np.ascontiguousarray(image), factors, generator.permutation(4).tolist())
    image = cv2.GaussianBlur(image, (0, 0), max(1e-3, generator.uniform(0, 0.008) * min(h, w)))
    turn: np.ndarray = cv2.getRotationMatrix2D((w / 2, h / 2), generator.uniform(-10, 10), generator.uniform(0.7, 1))
    turn[:, 2] += generator.uniform(-0.05, 0.05, 2) * (w, h)
    ground, patch = (tuple(map(int, generator.integers(0, 256, 3))) for _ in range(2))
    image = cv2.warpAffine(image, turn, (w, h), flags=cv2.INTER_LINEAR, borderValue=ground)
    height, width = (max(1, round(side * generator.uniform(0.1, 0.3))) for side in (h, w))
    top, left = generator.integers(h - height + 1), generator.integers(w - width + 1)
    image[top : top + height, left : left + width] = patch
    return saved(image, int(generator.integers(20, 61)))
