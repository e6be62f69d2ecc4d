"""Listings of images: of a folder, a text file or a CSV file, with progress, and kept beside the run.

A listing holds root (a folder), names (relative to it), labels (as text, or None), unlabelled (why there are none) and
folders (the time of modification of each folder it was made from).
"""

import csv
import gzip
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from dinolab.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
PATIENCE = 2.0  # seconds of listing before its progress is shown
LOOK_AT = 5  # names at the head of a text or CSV file, of which one at least must be there

Listing = dict[str, Any]


def list_images(
    path: str, images: str, filename_column: str, label_column: str, cache: Path | None, option: str
) -> Listing:
    """The listing in `cache` if it is still true, else a new one, which the cache then keeps. Raises UserError."""
    named = f"{option}={path}"
    full = os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(full):
        raise UserError(f"{named}: no such file or folder")
    kind = "folder" if os.path.isdir(full) else os.path.splitext(full)[1].lower()
    if kind not in ("folder", ".txt", ".csv"):
        raise UserError(f"{named}: neither a folder, nor a text file of paths (.txt), nor a CSV file (.csv)")
    key = [full, images, filename_column, label_column]
    if kind != "folder":
        status = os.stat(full)
        key += [str(status.st_mtime_ns), str(status.st_size)]

    listing = read_cache(cache, key) if cache else None
    if listing is not None:
        return listing
    try:
        with progress(named) as show:
            if kind == "folder":
                listing = list_folder(full, named, show)
            else:
                names, labels, unlabelled = (
                    read_text(full) if kind == ".txt" else read_csv(full, filename_column, label_column, named, show)
                )
                root = find_images(names, full, images, named, option)
                listing = {"root": root, "names": names, "labels": labels, "unlabelled": unlabelled, "folders": {}}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{named}: cannot be read ({error})") from error
    if cache:
        write_cache(cache, key, listing)
    return listing


def list_folder(root: str, named: str, show: Callable[[int], None]) -> Listing:
    names: list[str] = []
    folders: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()  # a link to a folder above would never end
    todo = [""]
    while todo:
        folder = todo.pop()
        status = os.stat(os.path.join(root, folder))
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[folder] = status.st_mtime_ns  # taken before the entries: what is added meanwhile shows
        below = []
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                name = os.path.join(folder, entry.name)
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    below.append(name)
                elif entry.name.lower().endswith(IMAGES):
                    names.append(name)
                    show(len(names))
        todo += sorted(below, reverse=True)
    if not names:
        raise UserError(f"{named}: no images ({' '.join(IMAGES)}) in this folder or below it")
    names.sort()
    first = [name.split(os.sep, 1)[0] if os.sep in name else "" for name in names]
    labelled = "" not in first and len(set(first)) > 1
    return {
        "root": root,
        "names": names,
        "labels": first if labelled else None,
        "unlabelled": "a labelled folder has two or more subfolders, one for each class, and no image outside them",
        "folders": folders,
    }


def read_text(path: str) -> tuple[list[str], None, str]:
    """Names, and no labels, and why: as read_csv."""
    with open(path, encoding="utf-8-sig") as file:
        names = [line.strip() for line in file if line.strip()]
    return names, None, "a text file of paths names none; use a CSV file"


def read_csv(
    path: str, filename_column: str, label_column: str, named: str, show: Callable[[int], None]
) -> tuple[list[str], list[str] | None, str]:
    """Names, labels if every row has one, and why there are none."""
    names: list[str] = []
    labels: list[str] = []
    unlabelled = ""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, skipinitialspace=True)
        columns = list(rows.fieldnames or [])
        if filename_column not in columns:
            raise UserError(
                f"{named} has no column {filename_column!r}, only: {', '.join(columns) or 'none at all'}; "
                "set data.filename_column to the one with the file names"
            )
        if label_column not in columns:
            unlabelled = f"no column {label_column!r}, only: {', '.join(columns)}; set data.label_column"
        for row in rows:
            if not row[filename_column]:
                raise UserError(f"{named}, line {rows.line_num}: column {filename_column!r} is empty")
            names.append(row[filename_column])
            labels.append(row.get(label_column) or "")
            if not labels[-1] and not unlabelled:
                unlabelled = f"column {label_column!r} is empty in line {rows.line_num}"
            show(len(names))
    return names, None if unlabelled else labels, unlabelled


def find_images(names: list[str], path: str, images: str, named: str, option: str) -> str:
    """The folder that the names in the file at `path` are relative to: the first likely one that has one of the first.

    Without any, the one folder beside the file that has; two of them would be a guess.
    """
    if not names:
        raise UserError(f"{named}: the file lists no images")
    likely, unlikely = ([os.path.abspath(os.path.expanduser(images))], []) if images else candidates(path)
    for place in likely:
        if present(place, names):
            return place
    found = [place for place in unlikely if present(place, names)]
    if len(found) == 1:
        return found[0]
    where = f"is in several folders ({', '.join(found)})" if found else f"is not in {' or '.join(likely)}"
    way_out = (
        "set data.images to the folder of the images" if option == "data.path" else "put the file beside its images"
    )
    raise UserError(f"{named}: {names[0]}, the first image it lists, {where}; {way_out}")


def candidates(path: str) -> tuple[list[str], list[str]]:
    """Likely folders of a file's images, best first (train/ for Training_set.csv, its own), and unlikely ones."""
    own, name = os.path.split(path)
    stem, kind = os.path.splitext(name.lower())
    if kind != ".csv":
        return [own], []
    with os.scandir(own) as entries:
        beside = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    alike = sorted((folder for folder in beside if stem.startswith(folder.lower())), key=len, reverse=True)
    others = [os.path.join(own, folder) for folder in beside if folder not in alike]
    return [*(os.path.join(own, folder) for folder in alike), own], others


def present(place: str, names: list[str]) -> bool:
    """Whether one of the first names is there; not all need be, a file that vanished is found when it is read."""
    return any(os.path.isfile(os.path.join(place, name)) for name in names[:LOOK_AT])


def read_cache(cache: Path, key: list[str]) -> Listing | None:
    """The listing kept for this very key, if it is whole and still true."""
    try:
        with gzip.open(cache, "rt") as file:
            kept = json.load(file)
        listing = kept["listing"]
        if kept["key"] != key:
            return None
        for folder, changed in listing["folders"].items():
            if os.stat(os.path.join(listing["root"], folder)).st_mtime_ns != changed:
                return None
        return listing if listing["folders"] or present(listing["root"], listing["names"]) else None
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, zlib.error):  # gone or damaged
        return None


def write_cache(cache: Path, key: list[str], listing: Listing) -> None:
    """Written beside and renamed, so that it is whole or not there."""
    beside = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(beside, "wt", compresslevel=1) as file:
            json.dump({"key": key, "listing": listing}, file)
        beside.replace(cache)
    except OSError:  # without it the next start takes longer, that is all
        beside.unlink(missing_ok=True)


@contextmanager
def progress(named: str) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of images so far; shows it on stderr once the listing takes long."""
    began = time.monotonic()
    status = Console(stderr=True).status(f"listing {named}")
    started = False

    def show(images: int) -> None:
        nonlocal started
        if images % 1000 == 0 and time.monotonic() - began > PATIENCE:
            status.update(f"listing {named}: {images:,} images")
            if not started:
                status.start()
                started = True

    try:
        yield show
    finally:
        status.stop()
