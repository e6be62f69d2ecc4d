"""Checksums of a checkpoint's files, so that a damaged one is noticed: PyTorch reads a tensor with a flipped bit without an error."""

import json
import zlib
from pathlib import Path

CHECKSUMS = "checksums.json"  # file in a checkpoint: CRC-32 by file name
PIECE = 1 << 22  # bytes that are read at once


def write_checksums(folder: Path) -> None:
    """Adds the checksums of all files to a folder."""
    found = {file.name: checksum(file) for file in sorted(folder.iterdir()) if file.is_file()}
    (folder / CHECKSUMS).write_text(json.dumps(found, indent=1) + "\n")


def check_files(folder: Path) -> None:
    """Raises ValueError, with the file's name, where a file has changed. A checkpoint without checksums is not checked."""
    place = folder / CHECKSUMS
    if not place.is_file():  # earlier versions wrote none
        return
    try:
        kept = json.loads(place.read_text())
    except ValueError as error:
        raise ValueError(f"{CHECKSUMS} is damaged") from error
    if not isinstance(kept, dict):
        raise ValueError(f"{CHECKSUMS} is damaged")
    for name, known in kept.items():
        file = folder / Path(name).name
        if not file.is_file():
            raise ValueError(f"{name} is missing")
        if checksum(file) != known:
            raise ValueError(f"{name} is damaged: its checksum differs from that in {CHECKSUMS}")


def checksum(file: Path) -> str:
    """The CRC-32 of a file, as 8 hexadecimal digits."""
    value = 0
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            value = zlib.crc32(piece, value)
    return f"{value:08x}"
