"""The demo's data set: handwritten digits in small colour scenes with known masks.

The digits are scikit-learn's, 1,797 real scans of 8 x 8 pixels. A scene has a dark, uneven, noisy ground in one colour, and a digit
in another colour on it, of random size, place and slant. Test scenes show other scans than the training scenes.
"""

import json
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits

from dinolab.files import naming, write_whole

SIDE = 32  # pixels
HELD_OUT = 0.2  # share of the scans that only test scenes show
SIZES = {"train": 4000, "test": 1000}  # scenes
SEED = 0


def make_scenes(folder: Path) -> Path:
    """Write train/CLASS/*.png and test/CLASS/*.png, and masks (0 or 255) under the same names in masks/.

    If the folder holds these scenes already, nothing is done.

    Returns:
        The folder.
    """
    facts = {"side": SIDE, "held_out": HELD_OUT, "sizes": SIZES, "seed": SEED}
    done = folder / "scenes.json"
    if done.is_file() and json.loads(done.read_text()) == facts:
        return folder
    digits = load_digits()
    rng = np.random.Generator(np.random.Philox(SEED))
    order = rng.permutation(len(digits.images))
    held_out = round(HELD_OUT * len(order))
    for part, sources in (("test", order[:held_out]), ("train", order[held_out:])):
        for n in range(SIZES[part]):
            source = sources[n % len(sources)]
            scene, mask = draw_scene(digits.images[source], rng)
            name = f"{part}/{digits.target[source]}/{n:05d}.png"
            for path, picture in (
                (folder / name, cv2.cvtColor(scene, cv2.COLOR_RGB2BGR)),
                (folder / "masks" / name, mask),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                with naming(path):  # cv2.imwrite would keep silent on a full disk
                    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    write_whole(done, json.dumps(facts).encode())
    return folder


def draw_scene(digit: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene with one digit.

    Args:
        digit: the scan, float (8, 8), from 0 to 16.
        rng: draws size, place, slant, turn, colours and noise.

    Returns:
        The scene, uint8 (SIDE, SIDE, 3), and the mask, uint8 (SIDE, SIDE), 255 on the digit.
    """
    size = rng.uniform(20, 28)  # side of the scan in the scene, in pixels
    slant, turn = rng.uniform(-0.15, 0.15), np.deg2rad(rng.uniform(-10, 10))
    place = rng.uniform(size / 2, SIDE - size / 2, 2) if size < SIDE else np.full(2, SIDE / 2)
    cos, sin = np.cos(turn) * size / 8, np.sin(turn) * size / 8
    matrix = np.array([[cos, -sin + slant * size / 8], [sin, cos]])
    shift = place - matrix @ np.array([3.5, 3.5])
    ink = cv2.warpAffine(digit / 16.0, np.column_stack([matrix, shift]), (SIDE, SIDE), flags=cv2.INTER_CUBIC).clip(0, 1)

    ground = rng.uniform(0, 0.35, 3) + cv2.resize(
        rng.normal(0, 0.06, (3, 3, 3)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC
    )
    colour = rng.uniform(0.55, 1.0, 3)
    scene = ground * (1 - ink[..., None]) + colour * ink[..., None] + rng.normal(0, 0.04, (SIDE, SIDE, 3))
    return (scene.clip(0, 1) * 255).round().astype(np.uint8), ((ink > 0.4) * 255).astype(np.uint8)
