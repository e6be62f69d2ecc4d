"""A small heap of images with planted copies, and the commands that curate it."""

import cv2
import numpy as np
import pytest

from dinolab import cli

CHANGES = {
    "half.png": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "again.jpg": lambda image: image,
    "bright.png": lambda image: cv2.convertScaleAbs(image, alpha=0.9, beta=20),
    "cropped.png": lambda image: np.ascontiguousarray(image[4:-4, 4:-4]),
}


def picture(seed: int, side: int = 64) -> np.ndarray:
    """A smooth random image, uint8 (side, side, 3), unlike those of other seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def heap(tmp_path):
    """24 different images, of 4 of which there are copies, and one file that is no image."""
    folder = tmp_path / "heap"
    folder.mkdir()
    for seed in range(24):
        cv2.imwrite(str(folder / f"{seed:02d}.png"), picture(seed))
    for seed, (name, change) in enumerate(CHANGES.items()):
        cv2.imwrite(str(folder / f"{seed:02d}_{name}"), change(picture(seed)))
    (folder / "00_same.png").write_bytes((folder / "00.png").read_bytes())
    cv2.imwrite(str(folder / "05_mirrored.png"), picture(5)[:, ::-1])
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def curate(*words: object) -> int:
    """The exit status of a command; embedding is by raw pixels, in this process."""
    usual = {"embed": ["encoder=pixels"], "all": ["encoder=pixels"]}.get(str(words[0]), [])
    here = ["device=cpu", "workers=0"] if words[0] in ("embed", "dedup", "retrieve", "all") else []
    searching = ("dedup", "retrieve", "sample", "all", "audit")
    search = ["search_device=cpu"] if words[0] in searching else []
    return cli.main(["curate", *map(str, words), *usual, *here, *search])
