"""Sources of images: `open_source` lists whatever the user names; `take`, `subset` and `stratified_split` choose among its images."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from dinolab.data import draws
from dinolab.data.headers import check_settings
from dinolab.data.sources.kind import Request
from dinolab.data.sources.kinds import KINDS, choose_kind, forget
from dinolab.data.sources.listing import list_source
from dinolab.data.types import Source
from dinolab.errors import UserError, mask
from dinolab.options import Columns


def open_source(
    path: str,
    columns: Columns | None = None,
    cache: Path | None = None,
    need_labels: bool = False,
    option: str = "data.path",
) -> Source:
    """List the images of a source.

    A source is a folder of images (at any depth), a text file with one path in each line, a CSV file, tar shards in WebDataset's
    layout (a folder, a file or a pattern, on disk or at an address that fsspec reads), or a Hugging Face dataset on disk (a folder
    that save_to_disk wrote, or parquet files). KIND:PATH, with a name in KINDS, chooses how a path is read.

    Labels are the names of a folder's subfolders of the first level, if there are two or more and no image lies outside them; the
    column `label_column` of a CSV file or dataset; the .cls files of shards, or `label_column` or "cls" in their .json files.

    Args:
        path: the source, as the user named it.
        columns: the columns that hold names, images and labels, and the folder of the images that a file names; None stands for
            the defaults.
        cache: file that keeps the listing until the source or these arguments change.
        need_labels: True refuses a source without labels.
        option: the option by which the user named `path`, for messages.

    Raises:
        UserError: there is no such source, it holds no images, lacks a column, or has no labels though `need_labels`.
    """
    check_settings()
    columns = columns or Columns()
    named, name = mask(f"{option}={path}"), mask(path)
    forget()
    kind, rest = choose_kind(path, named)
    listing = list_source(kind, Request(rest, named, option, columns), cache)
    if need_labels and listing.labels is None:
        raise UserError(f"{named} has no labels: {listing.unlabelled}")
    classes = sorted(set(listing.labels or []))
    number = {label: n for n, label in enumerate(classes)}
    labels = None if listing.labels is None else np.array([number[label] for label in listing.labels], np.int64)
    pixels, chosen = KINDS[kind].pixels, columns.chosen()
    return Source(name, listing.locations(kind), labels, classes, pixels, listing.unlabelled, chosen)


def stratified_split(source: Source, share: float = 0.2, seed: int = 0) -> tuple[Source, Source]:
    """Split a labelled source at random, class by class, with at least one image of each class on either side.

    Args:
        share: the share of each class's images that goes to the second part.
        seed: another seed draws another split.

    Returns:
        The parts with (1 - share) and `share` of the images.

    Raises:
        UserError: the source has no labels, or a class with a single image.
    """
    if source.labels is None:
        raise UserError(f"{source.name} has no labels to split by")
    held_out = np.zeros(len(source), bool)
    for label, name in enumerate(source.classes):
        members = np.flatnonzero(source.labels == label)
        if len(members) == 1:
            raise UserError(f"{source.name}: class {name!r} has a single image; two are needed, one on each side")
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held_out[draws.rng(seed, draws.SPLIT, label).choice(members, count, replace=False)] = True
    return take(source, np.flatnonzero(~held_out)), take(source, np.flatnonzero(held_out))


def subset(source: Source, limit: int, seed: int) -> Source:
    """Draw `limit` images at random, and keep them in the source's order; the source itself if it has no more than that."""
    if len(source) <= limit:
        return source
    return take(source, np.sort(draws.rng(seed, draws.SUBSET, 0).choice(len(source), limit, replace=False)))


def take(source: Source, index: np.ndarray) -> Source:
    """The images at these positions, int (M,), in this order."""
    labels = None if source.labels is None else source.labels[index]
    return replace(source, paths=[source.paths[i] for i in index], labels=labels)
