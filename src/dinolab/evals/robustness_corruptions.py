"""Corruptions of images in five strengths, in the spirit of ImageNet-C (arXiv 1903.12261), for views of any size.

They are dinolab's own: lengths are fractions of the shorter side, and strengths are chosen so that each step is visibly worse
than the one before. Figures under them can be compared with each other, not with those of ImageNet-C.

An image is float32 (H, W, 3) in [0, 1] between the functions of this file.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

STRENGTHS = 5
Draws = np.random.Generator


@dataclass(frozen=True)
class Corruption:
    """One corruption of one strength: a `Distortion` that always gives the same view for the same file and seed."""

    name: str  # in CORRUPTIONS
    strength: int  # 1 to 5
    seed: int = 0

    def __call__(self, view: np.ndarray, digest: bytes) -> np.ndarray:
        """Corrupt a view.

        Args:
            view: uint8 (3, H, W).
            digest: of the image's file.

        Returns:
            uint8 (3, H, W).
        """
        words = [self.seed, zlib.crc32(self.name.encode()), self.strength, zlib.crc32(digest)]
        image = np.ascontiguousarray(view.transpose(1, 2, 0), np.float32) / 255
        changed = CORRUPTIONS[self.name](image, self.strength - 1, np.random.default_rng(words))
        return np.ascontiguousarray(np.rint(changed.clip(0, 1) * 255).astype(np.uint8).transpose(2, 0, 1))


def gaussian_noise(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[strength]
    return image + deviation * draws.standard_normal(image.shape, np.float32)


def shot_noise(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    """The noise of counted light: so many photons at white."""
    photons = (60, 25, 12, 5, 3)[strength]
    return (draws.poisson(image * photons) / photons).astype(np.float32)


def impulse_noise(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    """A share of all values becomes 0 or 1."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[strength]
    hit = draws.random(image.shape, np.float32)
    return np.where(hit < share / 2, 0, np.where(hit < share, 1, image)).astype(np.float32)


def defocus_blur(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    """The mean over a disc whose edge is soft by a pixel."""
    radius = (0.012, 0.018, 0.026, 0.035, 0.045)[strength] * min(image.shape[:2])
    reach = int(np.ceil(radius)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (radius + 0.5 - np.hypot(y, x)).clip(0, 1)
    return cv2.filter2D(image, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT_101)


def streak(length: float, angle: float) -> np.ndarray:
    """The kernel of a movement along a straight line; `length` in pixels, `angle` in radians."""
    reach = int(np.ceil(length / 2)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, across = x * np.cos(angle) + y * np.sin(angle), x * np.sin(angle) - y * np.cos(angle)
    line = (length / 2 + 0.5 - abs(along)).clip(0, 1) * (1 - abs(across)).clip(0, 1)
    return line / line.sum()


def motion_blur(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    length = (0.04, 0.065, 0.09, 0.12, 0.16)[strength] * min(image.shape[:2])
    kernel = streak(length, draws.uniform(0, np.pi))
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def zoom_blur(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    """The mean over zooms of the centre, from none to the largest one."""
    largest = (1.1, 1.16, 1.22, 1.28, 1.34)[strength]
    height, width = image.shape[:2]
    zooms = np.linspace(1, largest, 12)
    total = np.zeros_like(image)
    for zoom in zooms:
        moved = np.array([[zoom, 0, (1 - zoom) * (width - 1) / 2], [0, zoom, (1 - zoom) * (height - 1) / 2]])
        total += cv2.warpAffine(
            image, moved, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
    return total / len(zooms)


def gaussian_blur(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    sigma = (0.008, 0.012, 0.017, 0.022, 0.03)[strength] * min(image.shape[:2])
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def brightness(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    return image + (0.1, 0.2, 0.3, 0.4, 0.5)[strength]


def clouds(height: int, width: int, draws: Draws) -> np.ndarray:
    """Smooth random values in [0, 1], (H, W): octaves of noise, each of half the size and half the height of the one before."""
    total, weight, cells = np.zeros((height, width), np.float32), 1.0, 2
    while cells <= max(height, width):
        grid = draws.random((cells + 1, cells + 1), np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
        weight, cells = weight / 2, cells * 2
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def fog(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    """Light grey clouds, more or less thick, in front of the image."""
    thick = (0.45, 0.58, 0.7, 0.8, 0.9)[strength]
    cover = thick * (0.6 + 0.4 * clouds(image.shape[0], image.shape[1], draws))[..., None]
    return (1 - cover) * image + cover * 0.88


def snow(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    """White flakes that fall along streaks, in front of an image whose colours are paler."""
    share, pale = ((0.006, 0.15), (0.012, 0.25), (0.02, 0.3), (0.03, 0.4), (0.045, 0.5))[strength]
    height, width = image.shape[:2]
    side = min(height, width)
    flake = max(1.0, side / 90)
    grid = draws.random((round(height / flake), round(width / flake)), np.float32) < share
    flakes = cv2.resize(grid.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    falling = cv2.filter2D(flakes, -1, streak(0.045 * side, draws.uniform(np.pi / 3, 2 * np.pi / 3)))
    white = (4 * falling).clip(0, 1)[..., None]
    lighter = (1 - pale) * image + pale * (0.5 + 0.5 * image.mean(2, keepdims=True))
    return (1 - white) * lighter + white


def contrast(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    kept = (0.5, 0.35, 0.22, 0.13, 0.07)[strength]
    mean = image.mean((0, 1), keepdims=True)
    return mean + kept * (image - mean)


def pixelate(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    """Squares of one colour, with sides of 2 to 8 pixels."""
    share = (0.5, 0.36, 0.25, 0.18, 0.125)[strength]
    height, width = image.shape[:2]
    small = (max(1, round(width * share)), max(1, round(height * share)))
    shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_NEAREST)


def jpeg(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    quality = (25, 18, 13, 9, 6)[strength]
    pixels = np.rint(image * 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), np.float32) / 255


def saturation(image: np.ndarray, strength: int, draws: Draws) -> np.ndarray:
    """Colours further from grey than they were."""
    factor = (1.8, 2.7, 4, 6, 10)[strength]
    grey = (image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    return grey + factor * (image - grey)


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, Draws], np.ndarray]] = {
    one.__name__: one
    for one in (
        gaussian_noise, shot_noise, impulse_noise,
        defocus_blur, motion_blur, zoom_blur, gaussian_blur,
        brightness, fog, snow,
        contrast, pixelate, jpeg, saturation,
    )
}  # fmt: skip
