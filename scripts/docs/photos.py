"""Free photos that come with scikit-image and scikit-learn, and a folder of images that are cut out of them."""

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from dinolab.errors import UserError

# by name: the package, the file in it; docs/pictures/README.md has authors and licences
PHOTOS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "dahlia": ("sklearn", "datasets/images/flower.jpg"),
    "pagoda": ("sklearn", "datasets/images/china.jpg"),
    "photographer": ("skimage", "data/camera.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
CUTS, SIDE = 72, 480  # images cut out of each photo, and their sides in pixels
SHARE = 0.3, 1.0  # of the photo's shorter side that an image holds


def photo(name: str) -> Path:
    """The file of a photo. Raises UserError where its package is not installed."""
    package, file = PHOTOS[name]
    found = find_spec(package)
    if not found or not found.origin:
        raise UserError(f"the photo {name} comes with scikit-image: pip install scikit-image")
    return Path(found.origin).parent / file


def cut_photos(folder: Path) -> None:
    """Fill a folder with square parts of the photos, at random places and of random sizes; a subfolder for each photo."""
    rng = np.random.default_rng(0)
    for name in PHOTOS:
        pixels = cv2.imread(str(photo(name)))
        into = folder / name
        into.mkdir(parents=True)
        for number in range(CUTS):
            side = int(min(pixels.shape[:2]) * rng.uniform(*SHARE))
            top, left = (int(rng.integers(0, length - side + 1)) for length in pixels.shape[:2])
            part = pixels[top : top + side, left : left + side]
            part = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC)
            cv2.imwrite(str(into / f"{number:02d}.jpg"), part)
