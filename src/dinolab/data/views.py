"""Multi-crop views of an image on the CPU: OpenCV applies the random choices of `crops.py`.

Images are uint8 (H, W, 3), RGB. A crop is cut out, then resized, and then its colours are changed, so that the cost depends on the
size of the crop and not on that of the photo.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from dinolab.data.crops import BRIGHTNESS, CONTRAST, SATURATION, Crops, shrunk
from dinolab.data.distortions import distort, erase

BLUR_KERNEL = 9  # pixels, as in DINOv2
SPACING = 1.5  # pixels between bilinear samples when shrinking: up to this, they are as close to torchvision as the area filter is
LEVELS = np.arange(256.0)
CUT = 1e-3  # added before fractions are cut off, since a product may be just below the whole number that it should be
SOLARIZED = np.concatenate([np.arange(128), np.arange(127, -1, -1)]).astype(np.uint8)
GREY_OF_RGB = (0.299, 0.587, 0.114)  # shares of red, green and blue in grey


def make_views(image: np.ndarray, crops: Crops, out: list[np.ndarray]) -> None:
    """Make all views of an image.

    If decoding has shrunk the image since the boxes were drawn, they are scaled with it, and rounded to its pixels.

    Args:
        image: uint8 (H, W, 3).
        crops: the random choices for V crops.
        out: V arrays, uint8 (3, size, size), which receive the views.
    """
    factor = shrunk(crops, image.shape[0], image.shape[1])
    starts = np.rint(crops.boxes[:, :2] / factor).astype(int)
    ends = np.rint((crops.boxes[:, :2] + crops.boxes[:, 2:]) / factor).astype(int)
    factors, order = crops.factors.tolist(), crops.order.tolist()
    for v, ((top, left), (bottom, right), view_out) in enumerate(zip(starts.tolist(), ends.tolist(), out)):
        view = resample(image[top:bottom, left:right], *view_out.shape[1:])
        if crops.flip[v]:
            view = cv2.flip(view, 1)
        if crops.jitter[v]:
            view = colour_jitter(view, factors[v], order[v])
        view = distort(view, crops.operations[v])
        if crops.grey[v]:
            view = grey(view)
        if crops.sigma[v]:
            view = blur(view, crops.sigma[v])
        if crops.solarize[v]:
            view = cv2.LUT(view, SOLARIZED)
        if crops.erased[v].any():
            view = erase(view, crops.erased[v])
        cv2.split(view, list(view_out))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image (H, W, 3): with the area filter along sides that shrink, and cubic interpolation along sides that grow."""
    h, w = image.shape[:2]
    if height < h or width < w:
        # OpenCV's area filter silently turns bilinear if either side grows, so sides are shrunk first.
        image = cv2.resize(image, (min(width, w), min(height, h)), interpolation=cv2.INTER_AREA)
    if height > h or width > w:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    return image


def resample(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a crop, at half the cost of `resize` or less.

    A large crop is halved first, which the area filter does fast. The rest is the mean of several bilinear samples for each pixel,
    no further apart than SPACING, which gives the sharpness of torchvision's antialiased filter. If one side grows while the other
    shrinks, both are bilinear.
    """
    while min(image.shape[0] / height, image.shape[1] / width) >= 2 * SPACING:
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    factors = image.shape[0] / height, image.shape[1] / width
    if max(factors) <= 1:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    down, across = (math.ceil(factor / SPACING) for factor in factors)
    samples = cv2.resize(image, (across * width, down * height), interpolation=cv2.INTER_LINEAR)
    return samples if down == across == 1 else cv2.resize(samples, (width, height), interpolation=cv2.INTER_AREA)


def colour_jitter(image: np.ndarray, factors: Sequence[float], order: Sequence[int]) -> np.ndarray:
    """Change brightness, contrast, saturation and hue in the given order, as torchvision's ColorJitter does.

    After every step values are clipped and their fractions cut off, as in Pillow. Brightness and contrast are look-up tables of 256
    levels, and a single one if brightness follows contrast.

    Args:
        image: uint8 (H, W, 3), RGB.
        factors: factors of brightness, contrast and saturation, and the shift of the hue in turns.
        order: a permutation of BRIGHTNESS, CONTRAST, SATURATION and HUE.
    """
    levels = LEVELS  # the table that is still to be applied
    for kind in order:
        f = factors[kind]
        if kind == BRIGHTNESS:
            levels = cut(f * levels)
            continue
        image, levels = apply(levels, image), LEVELS
        if kind == CONTRAST:
            levels = cut(f * levels + (1 - f) * mean_grey(image))
        else:
            image = saturate(image, f) if kind == SATURATION else turn_hue(image, round(f * 256) % 256)
    return apply(levels, image)


def cut(levels: np.ndarray) -> np.ndarray:
    """Clip values to [0, 255] and cut off their fractions."""
    return np.floor(levels.clip(0, 255) + CUT)


def apply(levels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Replace each value v of the image by levels[v], float (256,)."""
    return image if levels is LEVELS else cv2.LUT(image, levels.astype(np.uint8))


def mean_grey(image: np.ndarray) -> float:
    """The mean of the image in grey, 0 to 255."""
    r, g, b, _ = cv2.mean(image)
    return GREY_OF_RGB[0] * r + GREY_OF_RGB[1] * g + GREY_OF_RGB[2] * b


def saturate(image: np.ndarray, f: float) -> np.ndarray:
    """f * image + (1 - f) * grey(image), clipped, with fractions cut off."""
    affine = np.empty((3, 4))
    affine[:, :3] = [(1 - f) * share for share in GREY_OF_RGB]
    affine.flat[[0, 5, 10]] += f
    affine[:, 3] = CUT - 0.5  # cv2.transform rounds, and fractions are to be cut off
    return cv2.transform(image, affine)


def turn_hue(image: np.ndarray, shift: int) -> np.ndarray:
    """Turn the hue by shift / 256 of a circle, in 8-bit HSV."""
    if not shift:
        return image
    hsv = cv2.cvtColor(
        image, cv2.COLOR_RGB2HSV_FULL
    )  # with FULL a turn has 256 levels, so that uint8 wraps around as the hue does
    hsv[..., 0] += np.uint8(shift)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def grey(image: np.ndarray) -> np.ndarray:
    """The image in grey, still with three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with a standard deviation of `sigma` pixels."""
    kernel = cv2.getGaussianKernel(BLUR_KERNEL, sigma, cv2.CV_32F)
    return cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)


def eval_margin(side: int) -> float:
    """By which factor an image is larger than the centre that an evaluation cuts out of it: 256/224, and 1 below 64 pixels."""
    return 1 if side < 64 else 256 / 224


def eval_view(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """The view of an image for evaluation: resized to just cover `size` times its `eval_margin`, then cropped to its centre.

    The filter is bicubic with antialias, as in the published evaluations (torchvision's Resize(256, BICUBIC) and CenterCrop(224) of
    an image in Pillow). PyTorch's filter for uint8 gives Pillow's result, save a level or two in few pixels, in a third of its time.

    Args:
        image: uint8 (H, W, 3).
        size: side of the view in pixels, or height and width.

    Returns:
        uint8 (3, height, width).
    """
    height, width = (size, size) if isinstance(size, int) else size
    margin = eval_margin(min(height, width))
    tall, wide = round(height * margin), round(width * margin)
    h, w = image.shape[:2]
    if tall * w >= wide * h:  # fractions of a pixel are cut off, as in torchvision
        wide = tall * w // h
    else:
        tall = wide * h // w
    view = torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)
    if (h, w) != (tall, wide):
        view = F.interpolate(view[None], (tall, wide), mode="bicubic", antialias=True)[0]
    top, left = round((tall - height) / 2), round((wide - width) / 2)
    return view[:, top : top + height, left : left + width].contiguous().numpy()
