"""The folder that `pack` writes: shards of a limited size, in a folder that appears when it is whole."""

import io
import logging
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dinolab.errors import UserError, reason
from dinolab.files import lock, naming

LEFT_BEHIND = re.compile(r"shard-\d{6}\.tar|lock")  # names of files in the folder of an interrupted pack

log = logging.getLogger(__name__)


class ShardWriter:
    """Writes samples into shard-000000.tar, shard-000001.tar, ...; a shard ends before it would grow beyond `size` bytes.

    Attributes:
        count: number of shards begun.
        bytes: size of the shards that are complete.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.count = self.bytes = 0
        self.tar: tarfile.TarFile | None = None

    def add(self, key: str, files: dict[str, bytes]) -> None:
        """Write a sample: its files' contents by their extension, all under the name `key`."""
        needs = sum(tarfile.BLOCKSIZE * (1 + -(-len(content) // tarfile.BLOCKSIZE)) for content in files.values())
        room = self.size - tarfile.RECORDSIZE  # the mark of the end is padded to a record
        if self.tar and self.tar.offset + needs > room:
            self.close()
        if not self.tar:
            path = self.folder / f"shard-{self.count:06d}.tar"
            self.tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  # until close()
            self.count += 1
        for extension, content in files.items():
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size = len(content)
            self.tar.addfile(header, io.BytesIO(content))
        self.tar.members.clear()  # type: ignore[attr-defined]  # or all headers stay in memory

    def close(self) -> None:
        """Complete the shard that is being written, if there is one."""
        if self.tar:
            tar, self.tar = self.tar, None
            tar.close()
            self.bytes += os.path.getsize(str(tar.name))


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a folder OUT.partial to write into, which is renamed to OUT at the end if no exception was raised.

    Raises:
        UserError: OUT exists or cannot be written, another process packs into it, or OUT.partial holds other files.
    """
    partial = out.with_name(out.name + ".partial")
    if os.path.lexists(out):
        raise UserError(f"{out} exists already: name a new folder")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with naming(partial / "shards"), lock(partial / "lock"):
            remove_leftovers(partial)
            yield partial
            partial.rename(out)
            (out / "lock").unlink(missing_ok=True)
    except BlockingIOError as error:
        raise UserError(f"{partial}: another process packs into this folder; wait for it, or name another") from error
    except OSError as error:
        raise UserError(f"{partial} cannot be written: {reason(error)}") from error


def remove_leftovers(partial: Path) -> None:
    """Remove the files of an interrupted pack. Raises UserError, and removes nothing, if there are other files."""
    left = [entry for entry in partial.iterdir() if entry.name != "lock"]
    foreign = [entry.name for entry in left if not LEFT_BEHIND.fullmatch(entry.name)]
    if foreign:
        raise UserError(f"{partial} holds {foreign[0]}, which is no shard: move the folder away")
    if left:
        log.warning("%s was left by an interrupted pack: starting over", partial)
    for entry in left:
        entry.unlink()
