"""Multi-crop views of an image, as published for DINO (arXiv 2104.14294) and DINOv2 (arXiv 2304.07193).

All on uint8 (H, W, 3) RGB with OpenCV. A crop is cut first and then resized, so cost follows the crop and not the
photo. Distributions are those of torchvision's RandomResizedCrop, ColorJitter, GaussianBlur and RandomSolarize.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from dinolab import config

BLUR_KERNEL = 9  # pixels, and
BLUR_SIGMA = (0.1, 2.0)  # as DINOv2
LEVELS = np.arange(256, dtype=np.float32)
SOLARIZED = np.where(LEVELS < 128, LEVELS, 255 - LEVELS).astype(np.uint8)


def multi_crop(image: np.ndarray, cfg: config.Views, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two global and L local views of one image.

    Args:
        image: uint8 (H, W, 3), RGB.

    Returns:
        globals uint8 (2, 3, S, S) and locals uint8 (L, 3, s, s).
    """
    globals_ = np.empty((2, 3, cfg.global_size, cfg.global_size), np.uint8)
    locals_ = np.empty((cfg.locals, 3, cfg.local_size, cfg.local_size), np.uint8)
    for number, out in enumerate([*globals_, *locals_]):
        size, scale = (cfg.global_size, cfg.global_scale) if number < 2 else (cfg.local_size, cfg.local_scale)
        top, left, height, width = crop_box(image.shape[0], image.shape[1], scale, cfg.aspect, rng)
        view = resize(image[top : top + height, left : left + width], size, size)
        view = distort(view, cfg, cfg.blur[min(number, 2)], cfg.solarize if number == 1 else 0.0, rng)
        cv2.split(view, list(out))
    return globals_, locals_


def crop_box(
    height: int, width: int, scale: Sequence[float], aspect: Sequence[float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """The box (top, left, height, width) of a random crop, distributed as in torchvision's RandomResizedCrop.

    Area uniform in `scale` (shares of the image's area), width over height log-uniform in `aspect`; after ten boxes
    that do not fit, the largest centred one with an admitted aspect.
    """
    for _ in range(10):
        area = height * width * rng.uniform(scale[0], scale[1])
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = width, height
    if width / height < aspect[0]:
        h = max(1, round(width / aspect[0]))
    elif width / height > aspect[1]:
        w = max(1, round(height * aspect[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W, 3): area filter along the sides that shrink, cubic along those that grow."""
    h, w = image.shape[:2]
    if height < h or width < w:
        # OpenCV's area filter silently turns bilinear if either side grows, so sides are shrunk first.
        image = cv2.resize(image, (min(width, w), min(height, h)), interpolation=cv2.INTER_AREA)
    if height > h or width > w:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    return image


def distort(image: np.ndarray, cfg: config.Views, blur: float, solarize: float, rng: np.random.Generator) -> np.ndarray:
    """Flip, colour jitter, grey, blur and solarisation, each with its probability. uint8 (H, W, 3) -> the same."""
    if rng.random() < cfg.flip:
        image = cv2.flip(image, 1)
    if rng.random() < cfg.jitter:
        image = colour_jitter(image, cfg.jitter_strength, rng)
    if rng.random() < cfg.grey:
        image = _grey(image)
    if rng.random() < blur:
        sigma = rng.uniform(*BLUR_SIGMA)
        image = cv2.GaussianBlur(image, (BLUR_KERNEL, BLUR_KERNEL), sigma, borderType=cv2.BORDER_REFLECT_101)
    if rng.random() < solarize:
        image = cv2.LUT(image, SOLARIZED)
    return image


def colour_jitter(image: np.ndarray, strength: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue, in random order, as torchvision's ColorJitter.

    Args:
        image: uint8 (H, W, 3), RGB.
        strength: the first three factors are uniform in [max(0, 1 - s), 1 + s], hue's shift in [-s, s] of a full turn.
    """
    factors = [rng.uniform(max(0.0, 1 - s), 1 + s) for s in strength[:3]]
    shift = rng.uniform(-strength[3], strength[3])
    for kind in rng.permutation(4):
        if kind == 0:
            image = cv2.LUT(image, _levels(LEVELS * factors[0]))
        elif kind == 1:
            mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
            image = cv2.LUT(image, _levels(LEVELS * factors[1] + (1 - factors[1]) * mean))
        elif kind == 2:
            image = cv2.addWeighted(image, factors[2], _grey(image), 1 - factors[2], 0)
        elif round(shift * 256):
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # FULL: a turn is 256 levels, so uint8 wraps as hue does
            hsv[..., 0] += np.uint8(round(shift * 256) % 256)
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return image


def eval_view(image: np.ndarray, size: int) -> np.ndarray:
    """The one view of evaluation: the short side to 256/224 of `size`, then the centre crop; uint8 (3, size, size).

    Below 64 px the short side goes straight to `size`: small images have no margin to spare.
    """
    height, width = image.shape[:2]
    short = size if size < 64 else round(size * 256 / 224)
    factor = short / min(height, width)
    image = resize(image, max(short, round(height * factor)), max(short, round(width * factor)))
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size].transpose(2, 0, 1))


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _levels(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
