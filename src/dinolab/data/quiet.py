"""Decoding without the lines that libjpeg, libpng and libtiff write to stderr for damaged images, which BrokenImage reports by name.

They write to the file descriptor of stderr, which is the whole process's. So it is led elsewhere only in processes that load images
and do nothing else, and only while one is decoded.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

streams: list[int] = []  # file descriptors of stderr and of nowhere, once `silence` was called


def silence() -> None:
    """Make `quiet` work in this process. Its other threads had better not write to stderr: their lines would be lost, too."""
    with suppress(OSError):  # stderr is closed: there is nothing to silence
        streams[:] = os.dup(2), os.open(os.devnull, os.O_WRONLY)


@contextmanager
def quiet() -> Iterator[None]:
    """Lead stderr nowhere, in a process that has called `silence`; elsewhere it stays as it is."""
    if not streams:
        yield
        return
    stderr, nowhere = streams
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
