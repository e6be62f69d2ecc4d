"""The folder of a curated set: which folders may become one, and that one command at a time writes to it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dinolab.curation.parts import crew
from dinolab.data.sources.curated import MANIFEST, folder_of
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.features.store import Store, open_store
from dinolab.files import lock

LOCK = "lock"  # file that the command which writes has locked
FIRST = (MANIFEST, LOCK, ".")  # beginnings of the names that a folder may hold that is about to become a set


def check_folder(folder: Path) -> None:
    """Raises UserError where a folder is neither new, nor empty, nor a set: the set's files would lie among the user's own."""
    if any(place.is_file() for place in (folder, *folder.parents)):
        raise UserError(f"{folder}: a file, or below one; name a new folder for the set")
    names = sorted(os.listdir(folder)) if folder.exists() else []
    others = [name for name in names if not name.startswith(FIRST)]
    if others and MANIFEST not in names:
        raise UserError(f"{folder}: no curated set, and not empty ({others[0]}); name a new folder for the set")


def refuse_itself(folder: Path, source: Source, option: str) -> None:
    """Raises UserError where a source is the set itself; `option` is that by which the user named it."""
    named = folder_of(source)
    if named and named.resolve() == folder.resolve():
        raise UserError(
            f"{option}={source.name}: this is the set itself; name the folder of the images, or another set"
        )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Inside the block, no other command writes to a set. Of several processes that share the work, the first one sees to that.

    Raises UserError where another command is writing to it.
    """
    if crew().rank:
        yield
        return
    try:
        held = lock(folder / LOCK)
    except BlockingIOError as error:
        raise UserError(f"{folder}: another process is writing to it; wait until it has ended") from error
    with held:
        yield


@contextmanager
def opened(out: str | Path) -> Iterator[Store]:
    """The store of a set to which no other command writes inside the block. Raises UserError where there is none, or it is unfinished."""
    folder = Path(out)
    if not (folder / MANIFEST).is_file():
        open_store(folder)  # raises: a folder that is no set gets no lock
    with writing(folder):
        yield open_store(folder)
