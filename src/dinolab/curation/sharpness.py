"""How sharp images are, and how much contrast they have: the two facts of an audit that need the pixels. N images."""

import logging
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from dinolab.data.decode import BrokenImage, decode, jpeg_size, read_file
from dinolab.errors import UserError, some
from dinolab.machine import cores
from dinolab.progress import track

log = logging.getLogger(__name__)
SIDE = 256  # pixels of the shorter side, to which larger images are reduced
NAMED = 5  # images that a warning names


def measure(locations: list[str], progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sharpness and contrast of images, float64 (N,) each; not a number where an image cannot be read.

    Sharpness is the variance of the Laplacian of the grey image, contrast the standard deviation of the values of that channel where
    it is largest. Both are measured on images whose shorter side has at most 256 pixels, so that large images are judged as a network
    sees them.

    Raises:
        UserError: no image can be read.
    """
    found, problems = np.full((len(locations), 2), np.nan), []
    with ThreadPoolExecutor(cores()) as pool:
        measured = track(pool.map(measure_file, locations), "sharpness and contrast", len(locations), progress)
        for row, one in enumerate(measured):
            if isinstance(one, BrokenImage):
                problems.append(str(one))
            else:
                found[row] = one
    again = "they have changed since they were embedded; give `dinolab curate embed` again"
    if len(problems) == len(locations):
        raise UserError(f"none of the {len(locations):,} images can be read ({problems[0]}): {again}")
    if problems:
        log.warning("%s images cannot be read: %s. %s", f"{len(problems):,}", some(problems, NAMED), again.capitalize())
    return found[:, 0], found[:, 1]


def measure_file(location: str) -> tuple[float, float] | BrokenImage:
    """Sharpness and contrast of one image, or why it cannot be read."""
    try:
        data = read_file(location)
        size = jpeg_size(data)
        reduction = max((r for r in (1, 2, 4, 8) if size and min(size) >= SIDE * r), default=1)
        image = decode(data, location, reduction)
    except BrokenImage as error:
        return error
    factor = SIDE / min(image.shape[:2])
    if factor < 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var()), float(image.std((0, 1)).max())
