"""Human Action Recognition as a job's images: the sheets of its layout, and how they differ from the published set."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from dinolab.data.sources import open_source, take
from dinolab.data.types import Source
from dinolab.errors import UserError, some
from dinolab.evals.splits import held_out
from dinolab.jobs.copies import TEST_LABELS, TESTING, TRAINING, find_layout
from dinolab.jobs.known import NAMED, differences
from dinolab.jobs.split import SEED, Images, Split, read_rows, write_split
from dinolab.rundir import RunFolder


def prepare(data: str, out: Path, most: tuple[int, int] | None = None, progress: bool = False) -> Split:
    """Find the images, compare them with the published set, and write train.csv, test.csv, unlabelled.csv and split.json to out/data.

    Testing_labels.csv, where there is one, names the test images. Else a fifth of each class of the labelled images is held out,
    once, with near-duplicates on the same side.

    Args:
        data: a copy of the set, see copies.py.
        out: the job's folder.
        most: train and test images that are taken of each class, at most; None takes all.
        progress: show a progress bar.

    Raises:
        UserError: `data` is no copy of the set, or has other images than the folder began with.
    """
    folder = find_layout(data, out / "images")
    notes: list[str] = []
    labelled = open_sheet(folder / TRAINING, True, notes)
    place = RunFolder(out).split.parent
    if (folder / TEST_LABELS).is_file():
        test = open_sheet(folder / TEST_LABELS, True, notes)
        train, how = labelled, f"given, by {TEST_LABELS}"
        everything = [train, test]
    else:
        assert labelled.labels is not None
        if np.bincount(labelled.labels).max() < 2:
            raise UserError(
                f"data={data}: every class has a single image; two are needed, a train image and a test image"
            )
        held, how = held_out(labelled, SEED, place, progress)
        train, test = (take(labelled, np.flatnonzero(side)) for side in (~held, held))
        everything = [labelled]
    unlabelled = without_labels(folder, test, notes)
    notes += differences(everything, len(unlabelled))
    compare_classes(data, train, test, notes)
    return write_split(data, out, Images(train, test, unlabelled, how, notes), most)


def open_sheet(file: Path, labelled: bool, notes: list[str]) -> Source:
    """The images that a CSV of the set's layout names and that exist; `notes` gets a sentence about missing ones and repeated ones."""
    columns = ["filename", "label"] if labelled else ["filename"]
    first = next(iter(read_rows(file)), [])
    if not set(columns) <= set(first):
        raise UserError(
            f"{file}: its first line is {','.join(first)!r}; the set's is {','.join(columns)!r}, with commas"
        )
    source = open_source(str(file), need_labels=labelled, option="data")
    if twice := sorted({Path(path).name for path, times in Counter(source.paths).items() if times > 1}):
        notes.append(f"{file.name} names {len(twice):,} images more than once: {some(twice, NAMED)}")
    return without_missing(source, notes)


def compare_classes(data: str, train: Source, test: Source, notes: list[str]) -> None:
    """Refuse test images that share no class with the train images; `notes` gets the classes that only they have."""
    known, tested = ({side.classes[label] for label in side.labels} for side in (train, test))  # type: ignore[union-attr]
    if len(known) < 2:
        raise UserError(f"data={data}: all labels are {some(sorted(known), 1)!r}; two classes are needed")
    if not known & tested:
        raise UserError(
            f"data={data}: {TEST_LABELS} has none of {TRAINING}'s classes, but {some(sorted(tested), NAMED)}"
        )
    if strange := sorted(tested - known):
        notes.append(f"classes of test images that no train image has: {some(strange, NAMED)}")


def without_missing(source: Source, notes: list[str]) -> Source:
    there = np.array([Path(path).is_file() for path in source.paths])
    if there.all():
        return source
    missing = [Path(path).name for path, found in zip(source.paths, there) if not found]
    notes.append(f"{Path(source.name).name} names {len(missing):,} images that are not there: {some(missing, NAMED)}")
    return take(source, np.flatnonzero(there))


def without_labels(folder: Path, test: Source, notes: list[str]) -> list[str]:
    """Paths of the images that Testing_set.csv names and that have no label."""
    if not (folder / TESTING).is_file():
        return []
    known = {Path(path).name for path in test.paths} if (folder / TEST_LABELS).is_file() else set()
    sheet = replace(open_sheet(folder / TESTING, False, notes), labels=None)
    return [path for path in sheet.paths if Path(path).name not in known]
