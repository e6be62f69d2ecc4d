"""Test sets of ImageNet that are unlike its own: -A, -R, -Sketch, -V2, -C and -ReaL, as folders or files in their usual layouts.

-A, -R and -Sketch have folders named like those of ImageNet's training images, and a set may have only some of the classes: then
the layer chooses among these. -V2 has folders 0 to 999, the positions of the sorted classes. -C has CORRUPTION/STRENGTH/CLASS.
-ReaL is a JSON list with the right classes of each validation image, in the order of their numbers.

M images, C classes of the training images.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.roots import below, folders_of

log = logging.getLogger(__name__)

# AlexNet's mean error over the five strengths of each corruption of ImageNet-C (arXiv 1903.12261; the code of DINOv3 repeats them).
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.92264,
    "defocus_blur": 0.81988,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.79836,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.71784,
    "jpeg_compression": 0.6065,
}
VALIDATION = re.compile(r"_(\d{8})\.")  # the number in the name of a validation image of ImageNet
WHERE = {  # folders or files of the sets, and where people usually get them
    ("imagenet-a",): "ImageNet-A: imagenet-a/CLASS; from https://github.com/hendrycks/natural-adv-examples",
    ("imagenet-r",): "ImageNet-R: imagenet-r/CLASS; from https://github.com/hendrycks/imagenet-r",
    ("imagenet-sketch", "sketch"): "ImageNet-Sketch: imagenet-sketch/CLASS; from https://github.com/HaohanWang/ImageNet-Sketch",
    ("imagenetv2", "imagenet-v2", "imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency"):
        "ImageNet-V2: imagenetv2/0 to 999; from https://github.com/modestyachts/ImageNetV2",
    ("imagenet-c",): "ImageNet-C: imagenet-c/CORRUPTION/STRENGTH/CLASS; from https://zenodo.org/records/2235448",
    ("real.json",): "ImageNet-ReaL: real.json; from https://github.com/google-research/reassessed-imagenet",
}  # fmt: skip


class Other(NamedTuple):
    """A further test set: sources by their parts, or the right classes of the test images themselves."""

    name: str
    sources: dict[str, Source]  # "" for a set without parts, else CORRUPTION/STRENGTH
    right: list[list[int]] | None = None  # of ReaL: the right classes of each validation image


def open_other(path: str, options: Any) -> Other:
    """Open a set in one of the layouts above. Raises UserError for anything else."""
    place = Path(path).expanduser()
    if place.is_file() and place.suffix == ".json":
        return Other(path, {}, read_right(place))
    if corrupted := corruptions_in(place):
        parts = {
            f"{name}/{strength.name}": open_source(str(strength), options, None, True, "sets")
            for name, folder in corrupted.items()
            for strength in folders_of(folder)
        }
        return Other(path, parts)
    return Other(path, {"": open_source(path, options, None, True, "sets")})


def corruptions_in(place: Path) -> dict[str, Path]:
    """The folders of corruptions of ImageNet-C in a folder, or one level further down, by corruption; not those of its four extra ones."""
    first = folders_of(place)
    found = [*first, *(folder for one in first for folder in folders_of(one))]
    is_strengths = (folder for folder in found if folder.name in ALEXNET and (folder / "1").is_dir())
    return {folder.name: folder for folder in is_strengths}


def read_right(file: Path) -> list[list[int]]:
    """The lists of right classes in ReaL's file. Raises UserError for anything else."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"sets={file}: cannot be read ({error})") from error
    good = isinstance(found, list) and all(isinstance(one, list) and all(type(c) is int for c in one) for one in found)
    if not good:
        raise UserError(
            f"sets={file}: not a JSON list with a list of class numbers for each image, as ReaL's real.json"
        )
    return found


def numbers_of(classes: list[str], known: list[str], name: str) -> np.ndarray:
    """For each class of a set its number among the classes of the training images, int; -1 for one that they lack.

    Classes are the same by name; folders 0, 1, ... are positions in `known` where no name is shared.
    """
    number = {one: n for n, one in enumerate(known)}
    if not {*classes} & {*known} and all(one.isdecimal() and int(one) < len(known) for one in classes):
        return np.array([int(one) for one in classes])
    found = np.array([number.get(one, -1) for one in classes])
    if (found < 0).all():
        raise UserError(
            f"sets={name}: no class in common with the training images ({', '.join(classes[:3])}, ... against "
            f"{', '.join(known[:3])}, ...); their folders need the same names"
        )
    if (found < 0).any():
        lacking = [one for one, n in zip(classes, found) if n < 0]
        log.warning(
            "%s: images of %d classes without training images are left out: %s, ...", name, len(lacking), lacking[0]
        )
    return found


def right_among(probabilities: Tensor, truth: np.ndarray) -> np.ndarray:
    """Whether the most likely of the classes that occur is the true one, bool, for the images whose class is known.

    Args:
        probabilities: float32 (M, C).
        truth: int (M,), -1 for an image without a known class; such images are left out.
    """
    kept = truth >= 0
    present = np.unique(truth[kept])
    likely = present[probabilities[torch.from_numpy(kept)][:, torch.from_numpy(present)].argmax(1).numpy()]
    return likely == truth[kept]


def right_by_real(predicted: np.ndarray, names: list[str], right: list[list[int]], name: str) -> np.ndarray:
    """Whether the predicted class of each validation image is one of ReaL's; images to which ReaL gives no class are left out.

    Args:
        predicted: int (M,).
        names: of the images' files, which end in their numbers of 8 digits.
    """
    numbers = [VALIDATION.search(one) for one in names]
    if not all(found and 1 <= int(found[1]) <= len(right) for found in numbers):
        raise UserError(
            f"sets={name}: the test images must be ImageNet's validation images, ILSVRC2012_val_00000001.JPEG and so on"
        )
    answers = [right[int(found[1]) - 1] for found in numbers if found]
    return np.array([one in answer for one, answer in zip(predicted.tolist(), answers) if answer], bool)


def mean_corruption_error(errors: Mapping[str, list[float]]) -> float:
    """ImageNet-C's mCE (arXiv 1903.12261, section 4.2), a share: the mean over its 15 corruptions of error / AlexNet's error.

    Args:
        errors: for each corruption the errors at its strengths; further corruptions are left out.

    Raises:
        KeyError: one of the 15 is missing.
    """
    return float(np.mean([np.mean(errors[name]) / alexnet for name, alexnet in ALEXNET.items()]))


def find_others(root: Path) -> tuple[list[str], list[str]]:
    """Paths of the sets under a root folder, and what is missing with where people usually get it."""
    found, missing = [], []
    is_there: Callable[[str], bool] = lambda name: (root / name).is_file()  # noqa: E731
    for names, where in WHERE.items():
        file = next((root / name for name in names if is_there(name)), None)
        place = file or below(root, names)
        if place:
            found.append(str(place))
        else:
            missing.append(where)
    return found, missing
