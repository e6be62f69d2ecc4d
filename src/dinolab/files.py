"""Files that are whole or not there, whenever the process is killed."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A place to write to, which is renamed to `path` at the end, and removed if it does not come to that."""
    place = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield place
        place.replace(path)
    finally:
        place.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    with beside(path) as place:
        place.write_bytes(content)


def file_name(text: str) -> str:
    """The text as a name that every file system takes."""
    return "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in text)
