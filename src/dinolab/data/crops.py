"""The random choices of multi-crop: boxes, flips, changes of colour, blur.

`views.py` applies them to an image with OpenCV, `device_views.py` to a whole batch on a GPU. Probabilities and ranges are those of
DINO (arXiv 2104.14294) and DINOv2 (arXiv 2304.07193); the distributions are those of torchvision's RandomResizedCrop, ColorJitter,
GaussianBlur and RandomSolarize. RandAugment and random erasing are those of DeiT (arXiv 2012.12877). An image has V = 2 + L crops,
two global and L local ones.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dinolab import options
from dinolab.data.distortions import OPERATIONS

BLUR_SIGMA = (0.1, 2.0)  # smallest and largest standard deviation in pixels, as in DINOv2
TRIES = 10  # boxes that are drawn before the largest centred one is taken, as in torchvision
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# RandAugment: operations of a crop, probability of each, deviation of their strength and its largest value
APPLIED, APPLY, SPREAD, STRONGEST = 2, 0.5, 0.5, 10
ERASED_AREA, ERASED_ASPECT = (
    (0.02, 1 / 3),
    (0.3, 1 / 0.3),
)  # of the box that is erased: share of the crop, width over height
GRID = 1 << 12  # steps of a crop's side, in which that box is drawn


class Crops(NamedTuple):
    """The random choices for the V crops of one image, global crops first. Stacked over B images, each array has shape (B, ...)."""

    size: np.ndarray  # int64 (2,), height and width of the image that the boxes were drawn for
    boxes: np.ndarray  # int64 (V, 4): top, left, height, width
    flip: np.ndarray  # bool (V,)
    jitter: np.ndarray  # bool (V,)
    # float64 (V, 4): factors of brightness, contrast and saturation, and the shift of the hue in turns
    factors: np.ndarray
    order: np.ndarray  # int64 (V, 4): the order in which these four are applied
    grey: np.ndarray  # bool (V,)
    sigma: np.ndarray  # float64 (V,): standard deviation of the blur in pixels; 0 for none
    solarize: np.ndarray  # bool (V,)
    operations: np.ndarray  # float64 (V, 2, 2): RandAugment's operations and their amounts, see distortions.py
    erased: np.ndarray  # float64 (V, 5): the box that is erased, see distortions.py; all 0 for none


def draw_crops(height: int, width: int, cfg: options.Views, rng: np.random.Generator) -> Crops:
    """Draw the random choices for all crops of an image.

    Args:
        height: the image's height in pixels.
        width: its width in pixels.
        cfg: number of crops, probabilities and ranges.
        rng: the sample's generator.
    """
    number = 2 + cfg.locals
    is_global = np.arange(number) < 2
    scale = np.where(is_global[:, None], cfg.global_scale, cfg.local_scale)
    boxes = draw_boxes(height, width, scale, cfg.aspect, rng)
    u = rng.random((number, 14))
    strength = np.array(cfg.jitter_strength)
    low, high = np.maximum(0, 1 - strength), 1 + strength
    low[HUE], high[HUE] = -strength[HUE], strength[HUE]
    blurred = u[:, 11] < np.array([cfg.blur[min(n, 2)] for n in range(number)])
    solarized = np.array([0, cfg.solarize] + [0] * cfg.locals)
    return Crops(
        size=np.array([height, width]),
        boxes=boxes,
        flip=u[:, 0] < cfg.flip,
        jitter=u[:, 1] < cfg.jitter,
        factors=low + (high - low) * u[:, 2:6],
        order=u[:, 6:10].argsort(axis=1),
        grey=u[:, 10] < cfg.grey,
        sigma=np.where(blurred, BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * u[:, 12], 0.0),
        solarize=u[:, 13] < solarized,
        operations=draw_operations(number, cfg.randaugment, rng),
        erased=draw_erased(number, cfg.erase, rng),
    )


def draw_boxes(
    height: int, width: int, scale: np.ndarray, aspect: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Draw the boxes of random crops, distributed as in torchvision's RandomResizedCrop.

    The area is uniform in `scale` and the aspect ratio log-uniform in `aspect`. If ten boxes do not fit into the image, the largest
    centred box with a permitted aspect ratio is taken.

    Args:
        scale: float (V, 2), the smallest and largest area as a share of the image's.
        aspect: the smallest and largest ratio of width to height.

    Returns:
        int64 (V, 4): top, left, height, width.
    """
    u = rng.random((len(scale), TRIES, 4))
    area = height * width * (scale[:, :1] + (scale[:, 1:] - scale[:, :1]) * u[..., 0])
    ratio = np.exp(math.log(aspect[0]) + (math.log(aspect[1]) - math.log(aspect[0])) * u[..., 1])
    w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    one = np.arange(len(scale)), fits.argmax(axis=1)  # the first that fits
    top, left = np.floor(u[..., 2] * (height - h + 1)), np.floor(u[..., 3] * (width - w + 1))
    boxes = np.stack([top[one], left[one], h[one], w[one]], axis=1).astype(np.int64)
    boxes[~fits.any(axis=1)] = largest_box(height, width, aspect)
    return boxes


def draw_operations(number: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Draw RandAugment's operations, (V, 2, 2): two for each crop, the place of each in OPERATIONS and its amount.

    An operation is applied with probability 0.5; its place is -1 otherwise. Nothing is drawn where the strength is 0.
    """
    if not strength:
        return np.tile([-1.0, 0.0], (number, APPLIED, 1))
    u = rng.random((number, APPLIED, 3))
    place = np.where(u[..., 0] < APPLY, np.floor(u[..., 1] * len(OPERATIONS)), -1)
    amount = (strength + SPREAD * rng.standard_normal((number, APPLIED))).clip(0, STRONGEST) / STRONGEST
    return np.stack([place, np.where(u[..., 2] < 0.5, -amount, amount)], axis=-1)


def draw_erased(number: int, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the boxes that are erased, (V, 5): top, left, height and width as shares of a crop's side, and the seed of the noise.

    All five are 0 in crops of which nothing is erased. Nothing is drawn where the probability is 0.
    """
    if not probability:
        return np.zeros((number, 5))
    boxes = draw_boxes(GRID, GRID, np.tile(ERASED_AREA, (number, 1)), ERASED_ASPECT, rng) / GRID
    drawn = np.column_stack([boxes, rng.integers(1 << 32, size=number)])
    return np.where(rng.random((number, 1)) < probability, drawn, 0.0)


def largest_box(height: int, width: int, aspect: Sequence[float]) -> tuple[int, int, int, int]:
    """The largest centred box (top, left, height, width) whose ratio of width to height lies in `aspect`."""
    w, h = width, height
    if width / height < aspect[0]:
        h = max(1, round(width / aspect[0]))
    elif width / height > aspect[1]:
        w = max(1, round(height * aspect[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def reduction(crops: Crops, cfg: options.Views) -> int:
    """The largest of the factors 1, 2, 4 and 8 by which the image can be shrunk before cropping without enlarging a crop afterwards."""
    sides = crops.boxes[:, 2:].min(axis=1)
    spare = min(sides[:2].min() / cfg.global_size, sides[2:].min(initial=1 << 30) / cfg.local_size)
    return next(factor for factor in (8, 4, 2, 1) if factor <= max(1, spare))


def shrunk(crops: Crops, height: int, width: int) -> int:
    """The factor by which decoding has shrunk the image that the boxes were drawn for, from its size now.

    Sides are rounded up in decoding. 0 means that the size fits no factor, so that this is another image.
    """
    h, w = crops.size.tolist()
    sizes = {factor: (math.ceil(h / factor), math.ceil(w / factor)) for factor in (1, 2, 4, 8)}
    return next((factor for factor, size in sizes.items() if size == (height, width)), 0)


def places(crops: Crops) -> np.ndarray:
    """Where the crops were taken from, for maps of the image: float32 (V, 5).

    Top, left, height and width in the largest centred square of the image, as shares of that square's side, and 1 if the crop is
    mirrored. A crop may reach beyond the square.
    """
    side = crops.size.min()
    corner = (crops.size - side) / 2
    starts, sides = (crops.boxes[:, :2] - corner) / side, crops.boxes[:, 2:] / side
    return np.concatenate([starts, sides, crops.flip[:, None]], axis=1).astype(np.float32)
