"""What lies under a root folder of data sets: the look-ups that evaluations share for `Evaluation.find`."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dinolab.data.sources.dataset import is_saved
from dinolab.data.sources.walk import walk
from dinolab.errors import UserError
from dinolab.evals.contract import Finds, Task

TRAIN = ("train", "training", "trainval")
TEST = ("test", "testing", "val", "valid", "validation")
IMAGENET = ("imagenet", "imagenet-1k", "imagenet1k", "ILSVRC2012", "ILSVRC-2012")
WHERE = "ImageNet-1k: imagenet/train and imagenet/val, a folder for each class; from https://image-net.org"


def opened(root: str | Path, option: str = "root") -> Path:
    """The folder of this path. Raises UserError where there is none."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"{option}={root}: no such folder; name the folder that holds the data sets")
    return folder


def below(root: Path, names: Sequence[str]) -> Path | None:
    """The folder in `root` with one of these names; only letters and digits count, and not whether they are capitals."""
    wanted = [plain(name) for name in names]
    found = {plain(entry.name): entry for entry in folders_of(root)}
    return next((found[name] for name in wanted if name in found), None)


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def folders_of(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and entry.name[0] != ".")
    except OSError:
        return []


def is_labelled(folder: Path) -> bool:
    """Whether a folder has a subfolder for each of two or more classes, or is a saved dataset of Hugging Face."""
    return is_saved(str(folder)) or len(folders_of(folder)) > 1


def train_and_test(folder: Path) -> tuple[Path, Path] | None:
    """The folders of labelled training and test images in a folder; validation images stand in for test images. None without both."""
    train, test = (
        next((found for name in names if (found := below(folder, [name])) and is_labelled(found)), None)
        for names in (TRAIN, TEST)
    )
    return (train, test) if train and test else None


@cache  # several evaluations forecast their time on the same large sets
def count_images(*folders: Path) -> int:
    """How many image files lie in some folders and below them."""
    return sum(len(walk(str(folder)).names) for folder in folders)


def find_each(root: Path, where: Mapping[Any, str], is_whole: Callable[[Path], Any]) -> Finds:
    """A task for each data set that an option `data` takes and that lies under the root.

    Args:
        where: for the names that a set's folder may have, the line that says where people usually get it.
        is_whole: whether a folder holds the set in its layout.
    """
    tasks, missing = [], []
    for names, source in where.items():
        folder = below(root, names)
        try:
            if folder and is_whole(folder):
                tasks.append(Task({"data": str(folder)}, count_images(folder), names[0] if len(where) > 1 else ""))
            else:
                missing.append(source)
        except UserError as error:  # it is there, but not complete
            missing.append(f"{source} ({error})")
    return Finds(tasks, missing)


def find_labelled(root: Path) -> Finds:
    """Labelled training and test images: those of the root itself, else those of ImageNet-1k."""
    for folder in (root, below(root, IMAGENET)):
        sides = train_and_test(folder) if folder else None
        if sides:
            train, test = sides
            return Finds([Task({"train": str(train), "test": [str(test)]}, count_images(train, test))], [])
    return Finds([], [WHERE])
