"""One split of Human Action Recognition for everything, as CSV files in the job's folder."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinolab.data import draws
from dinolab.data.sources import open_source, take
from dinolab.data.types import Source
from dinolab.errors import UserError, some
from dinolab.evals.results import write_csv
from dinolab.evals.splits import held_out
from dinolab.files import write_whole
from dinolab.jobs.copies import TEST_LABELS, TESTING, TRAINING, find_layout
from dinolab.jobs.known import NAMED, differences

SEED = 0


class Split(NamedTuple):
    train: Path  # CSV files, of absolute paths, with labels
    test: Path
    unlabelled: Path | None  # without: Testing_set.csv but for what Testing_labels.csv has
    facts: dict[str, Any]  # as in split.json


def prepare(data: str, out: Path, most: tuple[int, int] | None = None, progress: bool = False) -> Split:
    """Find the images, check them against the known set, and write train.csv, test.csv, unlabelled.csv and split.json to out/data.

    Testing_labels.csv, where there is one, is the test set; else a fifth of the labelled images is held out, by class and
    near-duplicates together, once. `most` images of each class are taken for training and for testing; None takes all.

    Raises UserError for what is no copy of the set, and for other images than the folder began with.
    """
    folder = find_layout(data, out / "images")
    said: list[str] = []
    labelled = open_sheet(folder / TRAINING, True, said)
    place = out / "data"
    if (folder / TEST_LABELS).is_file():
        test = open_sheet(folder / TEST_LABELS, True, said)
        train, how = labelled, f"given, by {TEST_LABELS}"
        everything = [train, test]
    else:
        assert labelled.labels is not None
        if np.bincount(labelled.labels).max() < 2:
            raise UserError(f"data={data}: every class has a single image; two are needed, one to learn, one to ask")
        held, how = held_out(labelled, SEED, place, progress)
        train, test = (take(labelled, np.flatnonzero(side)) for side in (~held, held))
        everything = [labelled]
    unlabelled = without_labels(folder, test, said)
    said += differences(everything, len(unlabelled))
    compare_classes(data, train, test, said)
    if most:
        train, test = few_of_each(train, most[0]), few_of_each(test, most[1])
    files = {"train": write_side(place / "train.csv", train), "test": write_side(place / "test.csv", test)}
    if unlabelled:
        write_csv(place / "unlabelled.csv", ["filename"], ((path,) for path in unlabelled))
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
        "differences": said,
    }
    write_whole(place / "split.json", (json.dumps(facts, indent=2) + "\n").encode())
    return Split(files["train"], files["test"], place / "unlabelled.csv" if unlabelled else None, facts)


def open_sheet(file: Path, labelled: bool, said: list[str]) -> Source:
    """The images that a CSV of the set's layout names and that are there; what is missing or named twice is said."""
    columns = ["filename", "label"] if labelled else ["filename"]
    with file.open(newline="", encoding="utf-8-sig", errors="replace") as opened:
        first = next(csv.reader(opened), [])
    if not set(columns) <= set(first):
        raise UserError(
            f"{file}: its first line is {','.join(first)!r}; the set's is {','.join(columns)!r}, with commas"
        )
    source = open_source(str(file), need_labels=labelled, option="data")
    if twice := sorted({Path(path).name for path, times in Counter(source.paths).items() if times > 1}):
        said.append(f"{file.name} names {len(twice):,} images more than once: {some(twice, NAMED)}")
    return without_missing(source, said)


def compare_classes(data: str, train: Source, test: Source, said: list[str]) -> None:
    """Refuses a test set that nothing can be learned for; says which of its classes no training image has."""
    learned, asked = ({side.classes[label] for label in side.labels} for side in (train, test))  # type: ignore[union-attr]
    if len(learned) < 2:
        raise UserError(f"data={data}: all labels are {some(sorted(learned), 1)!r}; two classes are needed")
    if not learned & asked:
        raise UserError(
            f"data={data}: {TEST_LABELS} has none of {TRAINING}'s classes, but {some(sorted(asked), NAMED)}"
        )
    if strange := sorted(asked - learned):
        said.append(f"classes to be asked of that no image to learn from has: {some(strange, NAMED)}")


def without_missing(source: Source, said: list[str]) -> Source:
    there = np.array([Path(path).is_file() for path in source.paths])
    if there.all():
        return source
    missing = [Path(path).name for path, found in zip(source.paths, there) if not found]
    said.append(f"{Path(source.name).name} names {len(missing):,} images that are not there: {some(missing, NAMED)}")
    return take(source, np.flatnonzero(there))


def without_labels(folder: Path, test: Source, said: list[str]) -> list[str]:
    """Paths of the images that Testing_set.csv names and no label is known of."""
    if not (folder / TESTING).is_file():
        return []
    known = {Path(path).name for path in test.paths} if (folder / TEST_LABELS).is_file() else set()
    asked = replace(open_sheet(folder / TESTING, False, said), labels=None)
    return [path for path in asked.paths if Path(path).name not in known]


def few_of_each(source: Source, most: int) -> Source:
    """At most so many images of each class, drawn at random, in the source's order."""
    assert source.labels is not None
    drawn = [
        draws.rng(SEED, draws.SUBSET, label).permutation(np.flatnonzero(source.labels == label))[:most]
        for label in range(len(source.classes))
    ]
    return take(source, np.sort(np.concatenate(drawn)))


def write_side(file: Path, source: Source) -> Path:
    """Refuses other images or labels than the file has; the same images in another place are written again."""
    assert source.labels is not None
    rows = [(path, source.classes[label]) for path, label in zip(source.paths, source.labels)]
    if file.is_file():
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
            before = [tuple(row) for row in csv.reader(opened)][1:]
        if by_name(before) != by_name(rows):
            raise UserError(f"{file}: data= has other images or labels than this job began with; give another out=")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_csv(file, ["filename", "label"], rows)
    return file


def by_name(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [(Path(path).name, *rest) for path, *rest in rows]
