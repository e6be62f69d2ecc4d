"""RandAugment (arXiv 1909.13719) and random erasing (arXiv 1708.04896), as DeiT (arXiv 2012.12877) uses them, on the CPU.

Images are uint8 (H, W, 3), RGB. `crops.py` draws what is done to a crop, and OpenCV does it here. The amount of an operation lies
between -1 and 1. Operations without two directions take its absolute value, and the first three take none. Every operation changes
an image more, the larger its amount is. The results are within a few levels of timm's operations on Pillow images.
"""

from collections.abc import Callable

import cv2
import numpy as np

from dinolab.pixels import RGB

LEVELS = np.arange(256)
FILL = tuple(round(255 * mean) for mean in RGB.mean)  # colour of the places that nothing is moved to
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's filter
MOST_DEGREES, MOST_SHEAR, MOST_SHIFT, MOST_CHANGE, MOST_ADDED = 30, 0.3, 0.45, 0.9, 110


def distort(image: np.ndarray, operations: np.ndarray) -> np.ndarray:
    """Apply RandAugment's operations one after another: float (n, 2), place in OPERATIONS (-1: none) and amount of each."""
    for place, amount in operations.tolist():
        if place >= 0:
            image = OPERATIONS[int(place)](image, amount)
    return image


def erase(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A copy of the image whose box holds noise: after normalisation, normal numbers that are cut off where pixels end.

    Args:
        box: float (5,), top, left, height and width as shares of the image's sides, and the seed of the noise.
    """
    height, width = image.shape[:2]
    top, left, tall, wide, seed = box.tolist()
    rows = slice(round(top * height), round((top + tall) * height))
    columns = slice(round(left * width), round((left + wide) * width))
    erased = image.copy()
    noise = np.random.default_rng(int(seed)).standard_normal(erased[rows, columns].shape)
    erased[rows, columns] = np.rint(255 * (np.array(RGB.mean) + RGB.deviation * noise)).clip(0, 255)
    return erased


def autocontrast(image: np.ndarray, amount: float) -> np.ndarray:
    """Stretch each channel until it reaches from 0 to 255."""
    low, high = image.min((0, 1)).astype(float), image.max((0, 1)).astype(float)
    stretched = (LEVELS[:, None] - low) * 255 / np.maximum(high - low, 1)
    return cv2.LUT(image, np.where(high > low, stretched.clip(0, 255), LEVELS[:, None])[None].astype(np.uint8))


def equalize(image: np.ndarray, amount: float) -> np.ndarray:
    """Change the levels of each channel so that about as many pixels have each of them, by Pillow's rule."""
    tables = []
    for channel in cv2.split(image):
        counts = np.bincount(channel.ravel(), minlength=256)
        step = int(counts.sum() - counts[channel.max()]) // 255
        below = counts.cumsum() - counts
        tables.append(((step // 2 + below) // step).clip(0, 255) if step else LEVELS)
    return cv2.LUT(image, np.stack(tables, axis=-1)[None].astype(np.uint8))


def invert(image: np.ndarray, amount: float) -> np.ndarray:
    return cv2.bitwise_not(image)


def posterize(image: np.ndarray, amount: float) -> np.ndarray:
    """Keep the four highest bits of each level, and down to one of them."""
    kept = max(1, 4 - int(4 * abs(amount)))
    return image & np.uint8(256 - (1 << (8 - kept)))


def solarize(image: np.ndarray, amount: float) -> np.ndarray:
    """Invert the levels from a threshold on, which falls from 256 to 0."""
    threshold = 256 - int(256 * abs(amount))
    return cv2.LUT(image, np.where(threshold > LEVELS, LEVELS, 255 - LEVELS).astype(np.uint8))


def solarize_add(image: np.ndarray, amount: float) -> np.ndarray:
    """Make the levels of the darker half lighter."""
    lighter = (LEVELS + int(MOST_ADDED * abs(amount))).clip(0, 255)
    return cv2.LUT(image, np.where(LEVELS < 128, lighter, LEVELS).astype(np.uint8))


def colour(image: np.ndarray, amount: float) -> np.ndarray:
    return blend(image, cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), amount)


def contrast(image: np.ndarray, amount: float) -> np.ndarray:
    return blend(image, np.full_like(image, round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])), amount)


def brightness(image: np.ndarray, amount: float) -> np.ndarray:
    return blend(image, np.zeros_like(image), amount)


def sharpness(image: np.ndarray, amount: float) -> np.ndarray:
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, SMOOTH)[1:-1, 1:-1]  # as in Pillow, the border stays as it is
    return blend(image, smooth, amount)


def blend(image: np.ndarray, other: np.ndarray, amount: float) -> np.ndarray:
    """From `other` towards the image, and beyond it with an amount above 0."""
    factor = max(0.1, 1 + MOST_CHANGE * amount)
    return cv2.addWeighted(image, factor, other, 1 - factor, 0)


def rotate(image: np.ndarray, amount: float) -> np.ndarray:
    height, width = image.shape[:2]
    return warp(image, cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -MOST_DEGREES * amount, 1.0))


def shear_x(image: np.ndarray, amount: float) -> np.ndarray:
    shear = MOST_SHEAR * amount
    return warp(image, np.array([[1, shear, shear / 2], [0, 1, 0]]))


def shear_y(image: np.ndarray, amount: float) -> np.ndarray:
    shear = MOST_SHEAR * amount
    return warp(image, np.array([[1, 0, 0], [shear, 1, shear / 2]]))


def shift_x(image: np.ndarray, amount: float) -> np.ndarray:
    return warp(image, np.array([[1, 0, MOST_SHIFT * amount * image.shape[1]], [0, 1, 0]]))


def shift_y(image: np.ndarray, amount: float) -> np.ndarray:
    return warp(image, np.array([[1, 0, 0], [0, 1, MOST_SHIFT * amount * image.shape[0]]]))


def warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Take each pixel from where the matrix (2, 3) sends its place."""
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        image, matrix, image.shape[1::-1], flags=how, borderMode=cv2.BORDER_CONSTANT, borderValue=FILL
    )


OPERATIONS: tuple[Callable[[np.ndarray, float], np.ndarray], ...] = (
    autocontrast, equalize, invert, rotate, posterize, solarize, solarize_add, colour, contrast, brightness, sharpness,
    shear_x, shear_y, shift_x, shift_y,
)  # fmt: skip
