"""Anybody's labelled or half-labelled images as a job's images."""

import csv
import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from dinolab.data.addresses import absolute, is_file_name
from dinolab.data.decode import BrokenImage, read_file
from dinolab.data.locations import split as location
from dinolab.data.sources import open_source, take
from dinolab.data.sources.csv_file import find_separator
from dinolab.data.sources.text_file import read_text
from dinolab.data.types import Source
from dinolab.errors import UserError, some
from dinolab.evals.splits import held_out
from dinolab.files import write_whole
from dinolab.jobs.split import SEED, Images, Split, write_split
from dinolab.options import Columns

LEAST = 20  # labelled images
WITHOUT = ("unlabelled", "unlabeled")  # names of a folder or class that stand for no label


def prepare(
    data: str, out: Path, test: str, unlabelled: str, columns: Columns | None = None, progress: bool = False
) -> Split:
    """Find the images, divide them, and write the files of the split to out/data.

    Images without a label are those of `unlabelled`, of the class `unlabelled`, those that lie beside the folders of the classes, and
    those whose label in a CSV file is empty. Without `test`, a fifth of each class is held out, near-duplicates together.

    Args:
        data: images, as `open_source` takes them.
        out: the job's folder.
        test: labelled test images; empty holds some of `data` out.
        unlabelled: further images without labels; empty for none.
        columns: how a CSV file or dataset is read.
        progress: show a progress bar.

    Raises:
        UserError: there are no labels, too few images, or a single class; or the folder began with other images.
    """
    source = open_source(data, columns, option="DATA")
    labelled, rest = divide(source, data, columns or Columns())
    refuse_useless(labelled, data)
    place, notes = out / "data", []
    if test:
        train, how = labelled, "given, by test="
        tested = open_source(test, columns, need_labels=True, option="test")
        notes = compare_classes(train, tested, test)
    else:
        held, how = held_out(labelled, SEED, place, progress)
        train, tested = (take(labelled, np.flatnonzero(side)) for side in (~held, held))
    more = open_source(unlabelled, columns, option="unlabelled").paths if unlabelled else []
    files = {"train": as_files(train, place), "test": as_files(tested, place)}
    paths = as_files(replace(source, paths=[*rest, *more], labels=None), place).paths
    return write_split(data, out, Images(files["train"], files["test"], paths, how, notes))


def divide(source: Source, data: str, columns: Columns) -> tuple[Source, list[str]]:
    """The images with a label, and the locations of those without."""
    labels = (
        [source.classes[n] for n in source.labels] if source.labels is not None else some_labels(source, data, columns)
    )
    has = np.array([bool(label) and label.lower() not in WITHOUT for label in labels], bool)
    if has.all() and source.labels is not None:
        return source, []
    kept = [label for label, there in zip(labels, has) if there]
    classes = sorted(set(kept))
    chosen = take(replace(source, labels=None), np.flatnonzero(has))
    numbers = np.array([classes.index(label) for label in kept], np.int64)
    # another name: a split that is kept beside the data would belong to other images
    labelled = replace(chosen, name=f"{source.name} (labelled)", labels=numbers, classes=classes)
    return labelled, [path for path, there in zip(source.paths, has) if not there]


def some_labels(source: Source, data: str, columns: Columns) -> list[str]:
    """The label of each image of a source in which some lack one, "" for none: of a folder, or of a CSV file."""
    path = absolute(data)
    if Path(path).is_dir():
        names = [Path(location(one)[1][0]).relative_to(path).parts for one in source.paths]
        return [parts[0] if len(parts) > 1 else "" for parts in names]
    if is_file_name(path, ".csv"):
        text = read_text(path, f"DATA={data}")
        separator = find_separator(text, columns.filename_column)
        rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, delimiter=separator)
        return [row.get(columns.label_column) or "" for row in rows]
    return [""] * len(source)


def refuse_useless(labelled: Source, data: str) -> None:
    """Raises UserError where the labels are too few to compare anything by."""
    if not len(labelled):
        raise UserError(
            f"{data}: no labels, and a job compares by them; use folders of classes or a CSV file with labels, or train without: "
            f"dinolab train data.path={data}"
        )
    if len(labelled.classes) < 2:
        raise UserError(f"{data}: all labels are {labelled.classes[0]!r}; two classes are needed")
    if len(labelled) < LEAST:
        raise UserError(f"{data}: {len(labelled)} labelled images; a job needs {LEAST} or more")


def compare_classes(train: Source, test: Source, named: str) -> list[str]:
    """A sentence on classes that only the test images have. Raises UserError where no class is shared."""
    strange = sorted(set(test.classes) - set(train.classes))
    if len(strange) == len(test.classes):
        raise UserError(f"test={named}: none of the classes of the training images, but {some(strange, 3)}")
    return [f"classes of test images that no train image has: {some(strange, 3)}"] if strange else []


def as_files(source: Source, place: Path) -> Source:
    """The source with a file for each image; those of shards and datasets are written to out/data/images once.

    Images that cannot be read are left out.
    """
    found: list[str] = []
    kept: list[int] = []
    for number, path in enumerate(source.paths):
        parts = location(path)[1]
        if len(parts) > 1:
            name = hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=10).hexdigest()
            file = place / "images" / f"{name}{Path(parts[-1]).suffix or '.jpg'}"
            if not file.is_file():
                try:
                    content = read_file(path)
                except BrokenImage:
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(file, content)
            path = str(file.resolve())
        found.append(path)
        kept.append(number)
    return replace(source, paths=found, labels=None if source.labels is None else source.labels[kept])
