"""The image files in a folder and below it, without those that are no images of the user's."""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dinolab.data.addresses import HEIC, IMAGES, head_of
from dinolab.data.headers import looks_like_image
from dinolab.rundir import RunFolder

SKIPPED = (
    "__MACOSX",
)  # folders that hold no images, whatever their files are named; hidden folders, too, are left out
COMPANIONS = (  # endings of files that lie beside images and that nobody takes for images
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".pdf", ".db", ".ini", ".log", ".py",
    ".ipynb", ".cls", ".npy", ".npz", ".mat", ".pkl", ".zip", ".tar", ".gz", ".parquet", ".arrow", ".gzip", ".tmp",
)  # fmt: skip
RUN = RunFolder(Path())
OF_A_RUN = {
    RUN.environment.name,
    RUN.metrics.name,
    RUN.card.name,
}  # one of these beside config.yaml marks the folder of a run


class Walked(NamedTuple):
    """What a folder holds."""

    names: list[str]  # of images, relative to the folder, sorted
    folders: dict[str, int]  # folders that were listed, and when they were last modified (ns)
    left_out: Counter[str]  # number of files and folders that were left out, by what they are


def walk(root: str, count: Callable[[int], None] = lambda _: None) -> Walked:
    """List the images of a folder, at any depth.

    Hidden entries, folders of runs and those in SKIPPED are left out. So are links that lead nowhere, pipes and devices, and folders
    that cannot be opened: these are counted.

    Args:
        root: the folder.
        count: function to call, now and then, with the number of images found so far.

    Raises:
        OSError: the folder itself cannot be opened.
    """
    names: list[str] = []
    folders: dict[str, int] = {}
    left_out: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()  # a link to a folder above would never end
    todo = [""]
    while todo:
        folder = todo.pop()
        place = os.path.join(root, folder)
        try:
            status = os.stat(place)
            with os.scandir(place) as opened:
                entries = [entry for entry in opened if entry.name[0] != "."]
        except OSError as error:
            if not folder:
                raise
            left_out[f"folders that cannot be opened ({error.strerror or error})"] += 1
            continue
        if (status.st_dev, status.st_ino) in seen or (folder and is_run(entries)):
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[folder] = status.st_mtime_ns  # taken before the entries: what is added meanwhile shows
        below = []
        for entry in entries:
            kind = kind_of(entry)
            if kind == "folder":
                below.append(os.path.join(folder, entry.name))
            elif kind == "image":
                names.append(os.path.join(folder, entry.name))
                count(len(names))
            elif kind:
                left_out[kind] += 1
        todo += sorted(below, reverse=True)
    return Walked(sorted(names), folders, left_out)


def is_run(entries: list[os.DirEntry[str]]) -> bool:
    """Whether a folder with these entries is that of a run: its pictures are not training images."""
    names = {entry.name for entry in entries}
    return RUN.config.name in names and bool(names & OF_A_RUN)


def kind_of(entry: os.DirEntry[str]) -> str:
    """ "folder", "image", "" for an entry that nobody takes for an image, else a reason in words why it is left out."""
    ending = os.path.splitext(entry.name)[1].lower()
    image = ending in IMAGES
    try:
        if entry.is_dir():
            return "" if entry.name in SKIPPED else "folder"
        regular = entry.is_file()
        if not ending and regular:
            return "image" if looks_like_image(head_of(entry.path)) else ""
    except OSError:  # a link that leads to itself; a file that may not be read
        regular, image = False, image or not ending
    if image:
        return "image" if regular else "links that lead nowhere, and other files that cannot be read"
    if ending in HEIC:
        return f"{ending} (read once pillow-heif is installed)"
    return "" if ending in COMPANIONS or not ending else ending


def by_number(path: Path) -> list[str | int]:
    """A sort key that puts frame2 before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def in_words(left_out: Counter[str]) -> str:
    """The number of files that were left out, by what they are, most frequent first."""
    return ", ".join(f"{number:,} {kind}" for kind, number in left_out.most_common())
