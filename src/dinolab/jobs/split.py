"""One split for everything in a job, as CSV files in its folder."""

import csv
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinolab.data import draws
from dinolab.data.sources import stratified_split, take
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.results import write_csv
from dinolab.files import write_whole
from dinolab.rundir import RunFolder

SEED = 0


class Images(NamedTuple):
    """The images of a job, as a reader finds them."""

    train: Source  # with labels
    test: Source  # with labels
    unlabelled: list[str]  # paths
    split: str  # where the test images come from, in words
    notes: list[str]  # sentences on what is unusual in the data


class Split(NamedTuple):
    train: Path  # CSV files, of absolute paths, with labels
    test: Path
    unlabelled: Path | None  # images without a label; None if there are none
    facts: dict[str, Any]  # as in split.json

    @property
    def monitor(self) -> list[str]:
        """Options for the k-NN while training, on training images alone: `pretrain` has no labels where some images have none."""
        sides = [self.train.with_name(f"{name}.csv") for name in ("reference", "query")]
        named = [f"eval.train={sides[0]}", f"eval.test={sides[1]}"]
        return named if self.unlabelled and all(side.is_file() for side in sides) else []

    @property
    def pretrain(self) -> Path:
        """All images that a training without labels may see: those for training, and those without a label."""
        return self.train.with_name("pretrain.csv") if self.unlabelled else self.train


def write_split(data: str, out: Path, images: Images, most: tuple[int, int] | None = None) -> Split:
    """Write train.csv, test.csv, unlabelled.csv, pretrain.csv and split.json to out/data.

    Args:
        data: what the user named.
        out: the job's folder.
        most: train and test images that are taken of each class, at most; None takes all.

    Raises:
        UserError: the folder began with other images.
    """
    train, test, unlabelled, how, notes = images
    if most:
        train, test = few_of_each(train, most[0]), few_of_each(test, most[1])
    place = RunFolder(out).split.parent
    files = {"train": write_side(place / "train.csv", train), "test": write_side(place / "test.csv", test)}
    if unlabelled:
        write_csv(place / "unlabelled.csv", ["filename"], ((path,) for path in unlabelled))
        write_csv(place / "pretrain.csv", ["filename"], ((path,) for path in [*train.paths, *unlabelled]))
        with suppress(UserError):  # a class with a single image: then there is no k-NN while training
            for name, side in zip(("reference", "query"), stratified_split(train, seed=SEED)):
                write_side(place / f"{name}.csv", side)
    facts = {
        "data": data,
        "split": how,
        "seed": SEED,
        "images_of_a_class": dict(zip(("train", "test"), most)) if most else "all",
        **{
            name: {"images": len(side), "fingerprint": side.fingerprint()}
            for name, side in (("train", train), ("test", test))
        },
        "classes": train.classes,
        "unlabelled_images": len(unlabelled),
        "differences": notes,
    }
    write_whole(RunFolder(out).split, (json.dumps(facts, indent=2) + "\n").encode())
    return Split(files["train"], files["test"], place / "unlabelled.csv" if unlabelled else None, facts)


def few_of_each(source: Source, most: int) -> Source:
    """At most so many images of each class, drawn at random, in the source's order."""
    assert source.labels is not None
    drawn = [
        draws.rng(SEED, draws.SUBSET, label).permutation(np.flatnonzero(source.labels == label))[:most]
        for label in range(len(source.classes))
    ]
    return take(source, np.sort(np.concatenate(drawn)))


def write_side(file: Path, source: Source) -> Path:
    """Write the CSV of one side. An existing one must have the same names and labels; the images may have moved."""
    assert source.labels is not None
    rows = [(path, source.classes[label]) for path, label in zip(source.paths, source.labels)]
    if file.is_file() and by_name(read_rows(file)[1:]) != by_name(rows):
        raise UserError(f"{file}: data= has other images or labels than this job began with; give another out=")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_csv(file, ["filename", "label"], rows)
    return file


def read_rows(file: Path) -> list[list[str]]:
    """The rows of a CSV file that are not empty. Raises UserError where it is none."""
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as opened:
            return [row for row in csv.reader(opened) if row]
    except csv.Error as error:
        raise UserError(f"{file}: not a CSV file ({error})") from error


def by_name(rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return [(Path(path).name, *rest) for path, *rest in rows]
