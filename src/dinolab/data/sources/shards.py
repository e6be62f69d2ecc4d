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
from collections import Counter
from collections.abc import Iterator, Sequence
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
from dinolab.data.sources.walk import in_words
from dinolab.errors import UserError

COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # how gzip, bzip2, xz and zstd begin
LARGEST_LABEL = 1 << 24  # bytes of a .cls or .json file
BEHIND = 1 << 20  # bytes behind the mark of the end that are searched for another archive
BLOCK = 512  # bytes; a tar file is made of blocks, and one of zeros marks its end
NOT_COMPRESSED = "images in a compressed tar file cannot be read one by one; decompress it (gunzip)"
SHARDS_OPEN = 64  # in each process; workers need open files for their tensors, too

log = logging.getLogger(__name__)

NOT_A_LABEL = "no labels:"  # begins the reason why a value is none
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
        left_out: Counter[str] = Counter()
        at_once = REQUESTS if is_remote(files[0]) else 1
        with ThreadPoolExecutor(at_once) as pool:
            for images, others in pool.map(lambda shard: read_shard(shard, request), files):
                left_out += others
                for name, label in images:
                    names.append(name)
                    labels.append(label)
                    count(len(names))
        if not names:
            raise UserError(f"{request.named}: no images ({' '.join(IMAGES)}) in these shards")
        odd = [label for label in dict.fromkeys(left_out) if label.startswith(NOT_A_LABEL)]
        for kind in odd:
            del left_out[kind]
        if left_out:
            log.warning("%s: left out %s", request.named, in_words(left_out))
        if "" not in labels:
            return Listing(names, labels)
        if any(labels):
            first = self.describe(names[labels.index("")].split("\0"))
            return Listing(names, None, f"{first} has none, though others have")
        if odd:
            return Listing(names, None, odd[0])
        return Listing(
            names, None, f'no .cls files in the shards, nor .json files with "{request.columns.label_column}" or "cls"'
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


def read_shard(shard: str, request: Request) -> tuple[list[Image], Counter[str]]:
    """Read a shard's index.

    Returns:
        The images; and the number of samples and members that were left out, by what they are.

    Raises:
        UserError: the shard is cut short, compressed, or no tar file.
        OSError: it cannot be read.
    """
    with as_os_error(), open_file(shard) as file:
        if file.read(8).startswith(MAGIC):
            raise UserError(f"{request.named}: {shard}: {NOT_COMPRESSED}")
        file.seek(0)
        try:
            return read_index(file, shard, request.columns.label_column)
        except tarfile.TarError as error:
            raise UserError(f"{request.named}: {shard} is cut short or no tar file ({error})") from error


def read_index(file: BinaryIO, shard: str, label_column: str) -> tuple[list[Image], Counter[str]]:
    """Read the index of an open tar file, or of several that were joined by cat, with the result of `read_shard`.

    Raises tarfile.TarError.
    """
    images: list[Image] = []
    left_out: Counter[str] = Counter()
    start: int | None = 0
    while start is not None:
        file.seek(start)
        found, others, end = read_archive(file, shard, label_column)
        images += found
        left_out += others
        start = next_archive(file, end)
    return images, left_out


def read_archive(file: BinaryIO, shard: str, label_column: str) -> tuple[list[Image], Counter[str], int]:
    """Read the index of the tar archive that begins here, as `read_index`, and the offset of its end, in bytes.

    A sample with several images becomes several images with one label, unless each has a .cls file under its full name. A label in
    a .cls file takes precedence over one in a .json.
    """
    images: dict[str, list[tuple[str, str]]] = {}  # by sample: full name without the ending, and location
    labels: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in members(tar):
            folder, base = posixpath.split(member.name)
            stem, _, extension = base.partition(".")
            if not (stem and extension) or member.isdir():
                continue
            if not member.isreg() or member.issparse():
                if base.lower().endswith(IMAGES):
                    left_out["images that are links or have holes"] += 1
                continue
            sample, full = posixpath.join(folder, stem), posixpath.splitext(member.name)[0]
            here = images.setdefault(sample, [])
            if base.lower().endswith(IMAGES):
                here.append((full, "\0".join((shard, f"{member.offset_data}+{member.size}", member.name))))
            elif base.lower().endswith(".cls") or (extension.lower() == "json" and sample not in labels):
                label, problem = read_label(tar, member, label_column)
                if label:
                    labels[full] = sys.intern(label)
                elif problem:
                    left_out[f"{NOT_A_LABEL} {problem}"] += 1
        end = tar.offset
    labelled = [
        (location, labels.get(full) or labels.get(sample, ""))
        for sample, found in images.items()
        for full, location in found
    ]
    if without := sum(not found for found in images.values()):
        left_out[f"samples without an image ({' '.join(IMAGES)})"] += without
    return labelled, left_out, end


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an open tar file.

    Raises tarfile.ReadError for a size below zero, after which reading would never end, and for a name that no location can hold.
    """
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # or all headers stay in memory
        if member.size < 0:
            raise tarfile.ReadError(f"{member.name} has a size of {member.size} bytes")
        if "\0" in member.name:
            raise tarfile.ReadError(f"the name {member.name} holds a byte of zero")
        yield member


def next_archive(file: BinaryIO, end: int) -> int | None:
    """The offset of the archive that follows one with this end, where archives were joined by cat; None where nothing follows.

    Raises tarfile.ReadError where the mark of the end is missing: tarfile takes whatever is no header for the end, and a file that was
    cut between two members lacks the mark.
    """
    file.seek(end)
    if file.read(BLOCK) != bytes(BLOCK):
        raise tarfile.ReadError("no mark of its end")
    for start in range(end + BLOCK, end + BEHIND, BLOCK):
        block = file.read(BLOCK)
        if block.strip(b"\0"):
            return start
        if not block:
            break
    return None


def read_label(tar: tarfile.TarFile, member: tarfile.TarInfo, label_column: str) -> tuple[str, str]:
    """The label in a .cls or .json member, "" if there is none; and in words why a value that is there is no label."""
    if member.size > LARGEST_LABEL:
        raise tarfile.ReadError(f"{member.name}: {member.size:,} bytes are too many for a label")
    content = tar.extractfile(member)
    text = content.read().decode(errors="replace") if content else ""
    if member.name.lower().endswith(".cls"):
        return text.strip(), ""
    return label_in_json(text, label_column)


def label_in_json(text: str, label_column: str) -> tuple[str, str]:
    """The text or whole number under `label_column`, or else under "cls", in JSON text, as `read_label`."""
    try:
        fields = json.loads(text)
        values = {key: fields[key] for key in (label_column, "cls") if key in fields}
    except (ValueError, TypeError, RecursionError):
        return "", ""
    problem = ""
    for key, value in values.items():
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, str | int):
            return str(value).strip().encode(errors="replace").decode(), ""  # JSON can spell half a character
        problem = f'in the .json files "{key}" is {json.dumps(value)[:40]}, neither text nor a whole number; nor are there .cls files'
    return "", problem


SHARDS = Shards()
