"""Listings of images: of whatever the user names, with progress, and kept beside the run.

A listing holds root (a folder, or "" where names are whole locations), names (relative to it), labels (as text, or None),
unlabelled (why there are none) and folders (the time of modification of each folder it was made from).
"""

import csv
import gzip
import json
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from dinolab.data import storage
from dinolab.data.addresses import IMAGES, find_files, is_remote, stamps
from dinolab.data.shards import list_shards
from dinolab.data.tables import is_saved, list_rows
from dinolab.errors import UserError
from dinolab.files import beside

FILES = {
    ".txt": "text file of paths",
    ".csv": "CSV file",
    ".tar": "shard",
    ".parquet": "Hugging Face dataset",
}
COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
SPLIT = re.compile(r"(train|training|test|testing|val|valid|validation|dev)(?![a-z])")  # how names of files begin
PATIENCE = 2.0  # seconds of listing before its progress is shown
LOOK_AT = 5  # names at the head of a text or CSV file, of which one at least must be there

log = logging.getLogger(__name__)

Listing = dict[str, Any]


def list_images(
    path: str, images: str, filename_column: str, label_column: str, cache: Path | None, option: str
) -> Listing:
    """The listing in `cache` if it is still true, else a new one, which the cache then keeps. Raises UserError."""
    named = f"{option}={path}"
    storage.forget()
    try:
        kind, address = find_kind(path, named)
        files = [] if kind == "folder" else find_files(address, kind)
        key = [address, images, filename_column, label_column, *stamps(files)]
        listing = read_cache(cache, key) if cache else None
        if listing is not None:
            return listing
        with progress(named) as show:
            if kind == "folder":
                listing = list_folder(address, named, show)
            elif kind == ".tar":
                listing = as_listing("", *list_shards(files, label_column, named, show))
            elif kind in (".parquet", ".arrow"):
                listing = as_listing("", *list_rows(address, files, label_column, named))
            else:
                is_csv = kind == ".csv"
                found = read_csv(address, filename_column, label_column, named, show) if is_csv else read_text(address)
                listing = as_listing(find_images(found[0], address, images, named, option), *found)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{named}: cannot be read ({error})") from error
    if cache:
        write_cache(cache, key, listing)
    return listing


def as_listing(root: str, names: list[str], labels: list[str] | None, unlabelled: str) -> Listing:
    return {"root": root, "names": names, "labels": labels, "unlabelled": unlabelled, "folders": {}}


def find_kind(path: str, named: str) -> tuple[str, str]:
    """What `path` names: "folder" (of images), ".arrow" (save_to_disk) or one of FILES; and its absolute address."""
    ending = os.path.splitext(path)[1].lower()
    if is_remote(path):
        if ending in FILES and ending != ".tar":
            raise UserError(f"{named}: of remote storage only shards (.tar) are read; copy the file here")
        return ".tar", path
    full = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(full):
        return ".arrow" if is_saved(full, named) else kind_of_folder(full, named), full
    is_pattern = ending in (".tar", ".parquet") and any(sign in full for sign in "*?[{")
    if not os.path.exists(full) and not is_pattern:
        raise UserError(f"{named}: no such file or folder")
    if path.lower().endswith(COMPRESSED):
        raise UserError(f"{named}: a compressed tar's images cannot be read one by one; decompress it (gunzip)")
    if ending not in FILES:
        raise UserError(
            f"{named}: neither a folder nor one of {', '.join(f'{what} ({end})' for end, what in FILES.items())}"
        )
    return ending, full


def kind_of_folder(folder: str, named: str) -> str:
    """.tar or .parquet if such files lie in the folder and no image in or below it, else "folder"."""
    names, images, subfolders = [], False, False
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                subfolders = True
            elif entry.name.lower().endswith(IMAGES):
                images = True
            else:
                names.append(entry.name.lower())
    for kind in (".tar", ".parquet"):
        files = [name for name in names if name.endswith(kind)]
        if not files:
            continue
        if images or (subfolders and holds_images(folder)):
            log.warning(
                "%s: reads the images in or below it, not its %s files; *%s would name those", named, kind, kind
            )
            return "folder"
        splits = sorted({match[1] for match in map(SPLIT.match, files) if match})
        if len(splits) > 1:
            raise UserError(
                f"{named}: several splits ({', '.join(splits)}); name one by a pattern, as {splits[0]}*{kind}, or all by *{kind}"
            )
        return kind
    return "folder"


def holds_images(folder: str) -> bool:
    return any(name.lower().endswith(IMAGES) for _, _, names in os.walk(folder) for name in names)


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
        if listing["folders"] or not listing["root"]:  # the key tells when shards and tables change
            return listing
        return listing if present(listing["root"], listing["names"]) else None
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, zlib.error):  # gone or damaged
        return None


def write_cache(cache: Path, key: list[str], listing: Listing) -> None:
    with suppress(OSError):  # without it the next start takes longer, that is all
        cache.parent.mkdir(parents=True, exist_ok=True)
        with beside(cache) as place, gzip.open(place, "wt", compresslevel=1) as file:
            json.dump({"key": key, "listing": listing}, file)


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
