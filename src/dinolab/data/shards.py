"""Tar shards in WebDataset's layout: files whose names agree up to the first dot are one sample. The index is read once."""

import json
import logging
import posixpath
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from dinolab.data.addresses import IMAGES, REQUESTS, as_os_error, is_remote, open_file
from dinolab.data.storage import describe
from dinolab.errors import UserError

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # how gzip, bzip2, xz and zstd begin
BLOCK = 512  # bytes; a tar file is made of blocks, and one of zeros marks its end

log = logging.getLogger(__name__)

Image = tuple[str, str]  # location, label ("" for none)


def list_shards(
    shards: list[str], label_column: str, named: str, show: Callable[[int], None]
) -> tuple[list[str], list[str] | None, str]:
    """Locations of all images, shard by shard; labels if every image has one; and why there are none.

    Raises UserError for a shard that is cut short, compressed or no tar file, OSError for one that cannot be read.
    """
    names: list[str] = []
    labels: list[str] = []
    without_image = 0
    at_once = REQUESTS if is_remote(shards[0]) else 1
    with ThreadPoolExecutor(at_once) as pool:
        for images, others in pool.map(lambda shard: read_shard(shard, label_column, named), shards):
            without_image += others
            for name, label in images:
                names.append(name)
                labels.append(label)
                show(len(names))
    if not names:
        raise UserError(f"{named}: no images ({' '.join(IMAGES)}) in these shards")
    if without_image:
        log.warning("%s: left out %s samples without an image (%s)", named, f"{without_image:,}", " ".join(IMAGES))
    if "" not in labels:
        return names, labels, ""
    if any(labels):
        return names, None, f"{describe(names[labels.index('')])} has none, though others have"
    return names, None, f'no .cls files in the shards, nor .json files with "{label_column}" or "cls"'


def read_shard(shard: str, label_column: str, named: str) -> tuple[list[Image], int]:
    """The images of a shard, and the number of samples without any."""
    with as_os_error(), open_file(shard) as file:
        if file.read(8).startswith(COMPRESSED):
            raise UserError(
                f"{named}: {shard} is compressed, so its images cannot be read one by one; decompress it (gunzip)"
            )
        file.seek(0)
        try:
            return read_index(file, shard, label_column)
        except tarfile.TarError as error:
            raise UserError(f"{named}: {shard} is cut short or no tar file ({error})") from error


def read_index(file: BinaryIO, shard: str, label_column: str) -> tuple[list[Image], int]:
    """As read_shard. A sample with several images counts as several, with one label; a .cls goes before a .json."""
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
    # tarfile takes whatever is no header for the end; a file that was cut between two members has no mark of it
    file.seek(tar.offset)
    if file.read(BLOCK) != bytes(BLOCK):
        raise tarfile.ReadError("no mark of its end")
    labelled = [(name, labels.get(sample, "")) for sample, names in images.items() for name in names]
    return labelled, sum(not names for names in images.values())


def label_in_json(text: str, label_column: str) -> str:
    """The text or whole number under `label_column` or "cls"; "" if there is none."""
    try:
        fields = json.loads(text)
        values = [fields[key] for key in (label_column, "cls") if key in fields]
    except (ValueError, TypeError):
        return ""
    return next((str(value).strip() for value in values if isinstance(value, str | int)), "")
