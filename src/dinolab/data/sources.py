"""What the user names (a folder, a CSV file, tar shards, ...) -> a Source: the list of its images and, if any, labels."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from dinolab.data import draws
from dinolab.data.listing import list_images
from dinolab.data.types import Source
from dinolab.errors import UserError


def open_source(
    path: str,
    images: str = "",
    filename_column: str = "filename",
    label_column: str = "label",
    cache: Path | None = None,
    need_labels: bool = False,
    option: str = "data.path",
) -> Source:
    """The images of a folder (any depth), a text file with one path a line, a CSV file, tar shards in WebDataset's layout
    (a folder, a file, a pattern, local or by an address of fsspec's), or a Hugging Face dataset (a folder of save_to_disk's,
    parquet files).

    Labels are a folder's subfolders of the first level, if there are two or more and no image lies outside them; the column
    `label_column` of a CSV file or dataset; the .cls files of shards, or `label_column` or "cls" in their .json files.

    Args:
        images: folder that the names in a text file or CSV are relative to; "" looks for it beside the file.
        cache: file that keeps the listing until the folder, the files or these arguments change.
        option: what the user set to name `path`, for messages.

    Raises:
        UserError: nothing there, no images, a missing column, or no labels though `need_labels`.
    """
    listing = list_images(path, images, filename_column, label_column, cache, option)
    if need_labels and listing["labels"] is None:
        raise UserError(f"{option}={path} has no labels: {listing['unlabelled']}")
    paths = [os.path.join(listing["root"], name) for name in listing["names"]]
    if listing["labels"] is None:
        return Source(path, paths, None, [])
    classes = sorted(set(listing["labels"]))
    number = {label: n for n, label in enumerate(classes)}
    return Source(path, paths, np.array([number[label] for label in listing["labels"]], np.int64), classes)


def stratified_split(source: Source, share: float = 0.2, seed: int = 0) -> tuple[Source, Source]:
    """Part a labelled source in (1 - share, share), class by class; at least one image of each class on either side."""
    if source.labels is None:
        raise UserError(f"{source.name} has no labels to split by")
    held_out = np.zeros(len(source), bool)
    for label, name in enumerate(source.classes):
        members = np.flatnonzero(source.labels == label)
        if len(members) == 1:
            raise UserError(
                f"{source.name}: class {name!r} has a single image; two are needed, one to learn, one to ask"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held_out[draws.rng(seed, draws.SPLIT, label).choice(members, count, replace=False)] = True
    return take(source, np.flatnonzero(~held_out)), take(source, np.flatnonzero(held_out))


def subset(source: Source, limit: int, seed: int) -> Source:
    """`limit` images, any as likely as any other, in the source's order; the source itself if it has no more."""
    if len(source) <= limit:
        return source
    return take(source, np.sort(draws.rng(seed, draws.SUBSET, 0).choice(len(source), limit, replace=False)))


def take(source: Source, index: np.ndarray) -> Source:
    labels = None if source.labels is None else source.labels[index]
    return replace(source, paths=[source.paths[i] for i in index], labels=labels)
