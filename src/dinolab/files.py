"""Files that are whole or not there, whenever the process is killed."""

import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dinolab.errors import FULL

# what safetensors, torch.save and numpy.save say about a full disk
WHEN_FULL = re.compile(r"No space left on device|inline_container|\d+ requested and \d+ written")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Where the disk is full inside the block, the OSError names this file; libraries raise errors of their own for it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            error.filename = error.filename or str(path)
        elif WHEN_FULL.search(str(error)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A place to write to, which is renamed to `path` at the end, and removed if it does not come to that."""
    place = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with naming(path):
            yield place
            place.replace(path)
    finally:
        place.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    with beside(path) as place:
        place.write_bytes(content)


def lock(path: Path) -> IO:
    """Open a file, create it if necessary, and lock it against other processes until it is closed or this process ends.

    Where the system has no such locks (Windows), the file is opened and no more.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file cannot be opened, or its file system has no locks.
    """
    file = path.open("a")
    try:
        import fcntl
    except ImportError:
        return file
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, these locks do not pass to loader processes
    except PermissionError as error:  # some systems raise this for a lock that is held
        file.close()
        raise BlockingIOError(error.errno, error.strerror) from error
    except OSError:
        file.close()
        raise
    return file


def file_name(text: str) -> str:
    """The text as a name that every file system takes."""
    return "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in text)
