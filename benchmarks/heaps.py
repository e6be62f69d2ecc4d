"""Pictures for the heaps of planted.py and curation_helps.py: frames of films and other scenes, and copies of photos."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dinolab.data.decode import read_image
from dinolab.errors import UserError
from dinolab.files import write_whole

SHORT = 128  # pixels of the shorter side of a frame, as the photos have
QUALITY = 85  # of JPEG, as the photos have
WINDOWS = (
    3  # windows along each side of a frame, half as wide and high as the frame, so that neighbours overlap by half
)
FOLDERS = ("camvid/train", "camvid/test", "davis/JPEGImages/480p/*", "depth", "vos_judo/images")


def save(path: Path, image: np.ndarray, quality: int = QUALITY) -> None:
    """Write uint8 (H, W, 3) as JPEG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def resized(image: np.ndarray, scale: float) -> np.ndarray:
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def frames(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Scenes of a folder with camvid, davis, depth, vos_judo and video: the name of their clip, and uint8 (H, W, 3).

    Raises UserError where one of these is missing.
    """
    for pattern in FOLDERS:
        found = sorted(file for place in folder.glob(pattern) for file in place.glob("*.jpg"))
        if not found:
            raise UserError(f"{folder / pattern}: no images there; name the folder with camvid, davis, depth and video")
        for file in found:
            yield "/".join(file.relative_to(folder).parts[:-1]), read_image(str(file))
    for film in sorted((folder / "video").glob("*.*")):
        opened = cv2.VideoCapture(str(film))
        while (read := opened.read())[0]:
            yield f"video/{film.stem}", np.ascontiguousarray(read[1][..., ::-1])


def small(image: np.ndarray) -> np.ndarray:
    """The whole picture, with a shorter side of SHORT pixels."""
    return resized(image, SHORT / min(image.shape[:2]))


def windows(image: np.ndarray) -> Iterator[np.ndarray]:
    """WINDOWS x WINDOWS parts of a picture, each half as wide and as high."""
    height, width = image.shape[:2]
    for top in np.linspace(0, height - height // 2, WINDOWS).astype(int):
        for left in np.linspace(0, width - width // 2, WINDOWS).astype(int):
            yield small(image[top : top + height // 2, left : left + width // 2])


Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def cropped(image: np.ndarray, rng: np.random.Generator, area: float) -> np.ndarray:
    """A part of this share of the area, anywhere in the picture and of its shape."""
    height, width = (round(side * area**0.5) for side in image.shape[:2])
    top, left = (rng.integers(whole - part + 1) for whole, part in zip(image.shape[:2], (height, width)))
    return image[top : top + height, left : left + width]


def mirrored(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image[:, ::-1]


def brighter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.convertScaleAbs(image, alpha=1.2, beta=20)


def together(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cropped to 64 % of the area, mirrored, and brighter."""
    return brighter(mirrored(cropped(image, rng, 0.64), rng), rng)


def halved(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return resized(image, 0.5)


def same(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image


COPIES: dict[str, tuple[Change, int]] = {  # how a photo is changed, and the quality of JPEG it is saved with
    "resized to half": (halved, 85),
    "saved at quality 20": (same, 20),
    "brighter": (brighter, 85),
    "cropped to 81 %": (partial(cropped, area=0.81), 85),
    "cropped to 64 %": (partial(cropped, area=0.64), 85),
    "cropped to 49 %": (partial(cropped, area=0.49), 85),
    "cropped to 36 %": (partial(cropped, area=0.36), 85),
    "mirrored": (mirrored, 85),
    "cropped to 64 %, mirrored, brighter, quality 40": (together, 40),
}
