"""Where an image's bytes are: a file, a member of a tar shard, a row of a table. Each is read by itself, in any order.

A location is a string: a file's absolute path; or parts joined by NUL, which no path can hold:
address of a shard, "OFFSET+SIZE", name of the member; or address of a table, number of the row.
"""

import os
import weakref
from functools import lru_cache
from pathlib import Path

from dinolab.data import tables
from dinolab.data.addresses import as_os_error, filesystem, is_remote, local_copy, localise

SHARDS_OPEN = 64  # of each process; workers need open files for their tensors, too


def read_bytes(location: str) -> bytes:
    """The encoded image at a location. Raises OSError if it cannot be read."""
    address, *rest = location.split("\0")
    if not rest:
        return Path(address).read_bytes()
    with as_os_error():
        if len(rest) == 1:
            return tables.read_row(address, int(rest[0]))
        offset, size = (int(number) for number in rest[0].split("+"))
        data = shard(address, os.getpid()).read(offset, size)
    if len(data) != size:
        raise OSError(f"the shard ends before byte {offset + size}")
    return data


def describe(location: str) -> str:
    """A location in words, for messages: "/data/shard-000.tar: cat/1.jpg", "/data/folder, row 17"."""
    address, *rest = location.split("\0")
    if not rest:
        return location
    return f"{address}, row {rest[0]}" if len(rest) == 1 else f"{address}: {rest[1]}"


class Shard:
    """A tar file that any process and thread reads parts of: pread has no position that they would share."""

    def __init__(self, address: str) -> None:
        address = localise(address)
        self.fd = -1
        if is_remote(address):
            self.fs, self.path = filesystem(address)
        else:
            self.fd = os.open(address, os.O_RDONLY)
            weakref.finalize(self, os.close, self.fd)

    def read(self, offset: int, size: int) -> bytes:
        if self.fd >= 0:
            return os.pread(self.fd, size, offset)
        return self.fs.cat_file(self.path, start=offset, end=offset + size)


@lru_cache(SHARDS_OPEN)
def shard(address: str, process: int) -> Shard:
    """Kept open. `process` is this one's id: connections to remote storage do not survive a fork."""
    return Shard(address)


def forget() -> None:
    """Close what is kept open: files may have been replaced since."""
    shard.cache_clear()
    local_copy.cache_clear()
    tables.images.cache_clear()
