"""Which changed copies of a photo are found as near-duplicates, and how many pairs of different photos are?

    python benchmarks/duplicates.py --photos DIR [--out docs/results/duplicates.json]

Every photo is copied in each way of COPIES. The first figure is the share of the copies whose hashes differ from the photo's in no
more bits than features/duplicates.py allows: an evaluation that splits the images itself keeps these on the side of their photo. The
second figure is the number of pairs of photos that would be taken for copies; real copies in the folder count too. 5,700 photos of
128 pixels take half a minute on one core.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dinolab.data.decode import read_image
from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.features.duplicates import NEAR, hash_file, perceptual_hash
from dinolab.machine import environment

ROWS = 256  # hashes that are compared with all others at once


def resized(image: np.ndarray, scale: float) -> np.ndarray:
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def saved_again(image: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


def brighter(image: np.ndarray) -> np.ndarray:
    return cv2.convertScaleAbs(image, alpha=1.2, beta=10)


def cut(image: np.ndarray, pixels: int) -> np.ndarray:
    """Remove pixels from each of the four sides: this number for an image whose short side is 128, in proportion for others."""
    height, width = image.shape[:2]
    edge = round(pixels * min(height, width) / 128)
    return image[edge : height - edge, edge : width - edge]


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "3/4 of the size": partial(resized, scale=0.75),
    "1/2 of the size": partial(resized, scale=0.5),
    "saved again as JPEG, quality 75": partial(saved_again, quality=75),
    "saved again as JPEG, quality 50": partial(saved_again, quality=50),
    "brighter: 1.2 times and 10 levels of 255": brighter,
    "cut by 2 px of 128 on each side": partial(cut, pixels=2),
    "cut by 6 px of 128 on each side": partial(cut, pixels=6),
}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--photos", required=True, help="a folder of photos, or a CSV or text file that lists them")
    args.add_argument("--out", type=Path, default=Path("docs/results/duplicates.json"))
    options = args.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(0)
    paths = open_source(options.photos, option="--photos").paths
    hashes = {path: found for path in paths if (found := hash_file(path)) is not None}
    if len(hashes) < 2:
        raise UserError(f"--photos {options.photos}: fewer than two images can be read; name a folder of photos")
    found = {
        "command": "python benchmarks/duplicates.py --photos DIR",
        "environment": environment(),
        "near_bits": NEAR,
        "photos": len(hashes),
        "unreadable": len(paths) - len(hashes),
        "copies": compare_copies(hashes),
        "pairs": compare_pairs(np.array(list(hashes.values()))),
    }
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    for name, row in found["copies"].items():
        print(f"{name}: {row['found']:.1%} within {NEAR} bits")
    pairs = found["pairs"]
    print(f"pairs of photos: {pairs['within']:,} of {pairs['pairs']:,} within {NEAR} bits", end="; ")
    print(f"mean {pairs['mean_bits']:.1f} bits, fewest {pairs['fewest_bits']}")


def compare_copies(hashes: dict[str, np.uint64]) -> dict[str, dict[str, float]]:
    """Return, for each kind of copy, the share that is found, and the median number of bits in which copies differ from their photo."""
    differ = np.empty((len(hashes), len(COPIES)), int)
    for row, (path, own) in zip(differ, hashes.items()):
        image = read_image(path)
        row[:] = [np.bitwise_count(own ^ perceptual_hash(copy(image))) for copy in COPIES.values()]
    return {
        name: {"found": float(np.mean(bits <= NEAR)), "median_bits": float(np.median(bits))}
        for name, bits in zip(COPIES, differ.T)
    }


def compare_pairs(hashes: np.ndarray) -> dict[str, float]:
    """Compare all pairs of hashes, uint64 (N,): how many are within the threshold, and in how many bits pairs differ."""
    histogram = np.zeros(65, int)
    for start in range(0, len(hashes), ROWS):
        block, rest = hashes[start : start + ROWS], hashes[start:]
        differ = np.bitwise_count(block[:, None] ^ rest)
        histogram += np.bincount(differ[np.triu_indices(len(block), 1, len(rest))], minlength=65)
    return {
        "pairs": int(histogram.sum()),
        "within": int(histogram[: NEAR + 1].sum()),
        "fewest_bits": int(np.flatnonzero(histogram)[0]),
        "mean_bits": float(np.average(np.arange(65), weights=histogram)),
    }


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from error
