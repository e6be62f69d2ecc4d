"""Tar shards in WebDataset's layout: files whose names agree up to the first dot are one sample.

A shard's index is read once; images are then read by their offset, in any order.
"""

import json
import logging
import os
import posixpath
import sys
import tarfile
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import BinaryIO

from dinolab.data.addresses import (
    IMAGES,
    REQUESTS,
    absolute,
    as_os_error,
    filesystem,
    is_remote,
    local_copy,
    localise,
    open_file,
)
from dinolab.data.sources.kind import Count, Kind, Listing, Request
from dinolab.data.sources.packed import find_packed, is_folder_of
from dinolab.errors import UserError

COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # how gzip, bzip2, xz and zstd begin
BLOCK = 512  # bytes; a tar file is made of blocks, and one of zeros marks its end
NOT_COMPRESSED = "images in a compressed tar file cannot be read one by one; decompress it (gunzip)"
SHARDS_OPEN = 64  # in each process; workers need open files for their tensors, too

log = logging.getLogger(__name__)

Image = tuple[str, str]  # parts of the location joined by NUL, and the label ("" for none)


class Shards(Kind):
    """The parts of a location are the address of the tar file, "OFFSET+SIZE", and the name of the member."""

    title = "tar shards (.tar)"

    def claims(self, path: str) -> bool:
        if is_remote(path):
            return True
        address = absolute(path)
        return is_folder_of(address, ".tar") if os.path.isdir(address) else path.lower().endswith((".tar", *COMPRESSED))

    def files(self, request: Request) -> list[str]:
        if request.path.lower().endswith(COMPRESSED):
            raise UserError(f"{request.named}: {NOT_COMPRESSED}")
        return find_packed(request, ".tar")

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        names: list[str] = []
        labels: list[str] = []
        without_image = 0
        at_once = REQUESTS if is_remote(files[0]) else 1
        with ThreadPoolExecutor(at_once) as pool:
            for images, others in pool.map(lambda shard: read_shard(shard, request), files):
                without_image += others
                for name, label in images:
                    names.append(name)
                    labels.append(label)
                    count(len(names))
        if not names:
            raise UserError(f"{request.named}: no images ({' '.join(IMAGES)}) in these shards")
        if without_image:
            samples = f"{without_image:,} samples without an image ({' '.join(IMAGES)})"
            log.warning("%s: left out %s", request.named, samples)
        if "" not in labels:
            return Listing(names, labels)
        if any(labels):
            first = self.describe(names[labels.index("")].split("\0"))
            return Listing(names, None, f"{first} has none, though others have")
        return Listing(
            names, None, f'no .cls files in the shards, nor .json files with "{request.label_column}" or "cls"'
        )

    def read(self, parts: Sequence[str]) -> bytes:
        address, place, _ = parts
        offset, size = (int(number) for number in place.split("+"))
        data = open_shard(address, os.getpid()).read(offset, size)
        if len(data) != size:
            raise OSError(f"the shard ends before byte {offset + size}")
        return data

    def describe(self, parts: Sequence[str]) -> str:
        address, _, name = parts
        return f"{address}: {name}"

    def forget(self) -> None:
        open_shard.cache_clear()
        local_copy.cache_clear()


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
        """The bytes from an offset on, fewer than `size` at the end of the file. Raises what the storage raises."""
        if self.fd >= 0:
            return os.pread(self.fd, size, offset)
        return self.fs.cat_file(self.path, start=offset, end=offset + size)


@lru_cache(SHARDS_OPEN)
def open_shard(address: str, process: int) -> Shard:
    """Open a shard and keep it open. `process` is this one's id: connections to remote storage do not survive a fork."""
    return Shard(address)


def read_shard(shard: str, request: Request) -> tuple[list[Image], int]:
    """Read a shard's index.

    Returns:
        The images, and the number of samples without an image.

    Raises:
        UserError: the shard is cut short, compressed, or no tar file.
        OSError: it cannot be read.
    """
    with as_os_error(), open_file(shard) as file:
        if file.read(8).startswith(MAGIC):
            raise UserError(f"{request.named}: {shard}: {NOT_COMPRESSED}")
        file.seek(0)
        try:
            return read_index(file, shard, request.label_column)
        except tarfile.TarError as error:
            raise UserError(f"{request.named}: {shard} is cut short or no tar file ({error})") from error


def read_index(file: BinaryIO, shard: str, label_column: str) -> tuple[list[Image], int]:
    """Read the index of an open tar file, with the result of `read_shard`. Raises tarfile.TarError.

    A sample with several images becomes several images with one label. A label in a .cls file takes precedence over one in a .json.
    """
    images: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # or all headers stay in memory
            folder, base = posixpath.split(member.name)
            stem, _, extension = base.partition(".")
            if not (member.isreg() and stem and extension):
                continue
            sample = posixpath.join(folder, stem)
            locations = images.setdefault(sample, [])
            if base.lower().endswith(IMAGES):
                locations.append("\0".join((shard, f"{member.offset_data}+{member.size}", member.name)))
            elif extension == "cls" or (extension == "json" and sample not in labels):
                content = tar.extractfile(member)
                text = content.read().decode(errors="replace") if content else ""
                label = text.strip() if extension == "cls" else label_in_json(text, label_column)
                if label:
                    labels[sample] = sys.intern(label)
    # tarfile takes whatever is no header for the end; a file that was cut between two members lacks the mark of the end
    file.seek(tar.offset)
    if file.read(BLOCK) != bytes(BLOCK):
        raise tarfile.ReadError("no mark of its end")
    labelled = [(name, labels.get(sample, "")) for sample, names in images.items() for name in names]
    return labelled, sum(not names for names in images.values())


def label_in_json(text: str, label_column: str) -> str:
    """The text or whole number under `label_column`, or else under "cls", in JSON text; "" if there is none."""
    try:
        fields = json.loads(text)
        values = [fields[key] for key in (label_column, "cls") if key in fields]
    except (ValueError, TypeError):
        return ""
    return next((str(value).strip() for value in values if isinstance(value, str | int)), "")


SHARDS = Shards()
