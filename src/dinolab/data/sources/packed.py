"""Folders that hold files with many images each (shards or tables), and not images."""

import logging
import os
import re

from dinolab.data.addresses import find_files, is_remote
from dinolab.data.sources.kind import Request
from dinolab.data.sources.walk import walk
from dinolab.errors import UserError

SPLIT = re.compile(r"(train|training|test|testing|val|valid|validation|dev)(?![a-z])")  # how names of files begin

log = logging.getLogger(__name__)


def is_folder_of(folder: str, extension: str) -> bool:
    """Whether files with this extension lie in the folder, and no image in it or below. A warning reports those that are ignored."""
    with os.scandir(folder) as entries:
        files = any(
            entry.name.lower().endswith(extension) and is_file(entry) for entry in entries if entry.name[0] != "."
        )
    if files and walk(folder).names:
        log.warning(
            "%s: the images in this folder and below it are read, and its %s files are not; to read those, name *%s in it",
            folder,
            extension,
            extension,
        )
        return False
    return files


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is no folder. A link that leads nowhere is none, either: reading reports it."""
    try:
        return not entry.is_dir()
    except OSError:
        return True


def find_packed(request: Request, extension: str) -> list[str]:
    """The files that a folder, a file name or a pattern stands for.

    Raises UserError if there are none, or if a folder holds several splits of a dataset (train-*.tar and test-*.tar), OSError if
    storage fails.
    """
    files = find_files(request.address, extension)
    if not files:
        raise UserError(f"{request.named}: no {extension} files there")
    if not is_remote(request.path) and os.path.isdir(request.address):
        names = [os.path.basename(file).lower() for file in files]
        splits = sorted({match[1] for match in map(SPLIT.match, names) if match})
        if len(splits) > 1:
            raise UserError(
                f"{request.named}: several splits ({', '.join(splits)}); name one by a pattern, as {splits[0]}*{extension}, "
                f"or all by *{extension}"
            )
    return files
