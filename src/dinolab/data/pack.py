"""Shrink a source once and for all: JPEGs of a given short side in WebDataset shards, which are a source themselves."""

import io
import logging
import os
import re
import tarfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import cv2
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dinolab.data.decode import JPEG, ORIENTATION, BrokenImage, decode, jpeg_size, read_file
from dinolab.data.types import Source
from dinolab.data.views import resize
from dinolab.errors import UserError, some
from dinolab.machine import cores

AHEAD = 4  # images a thread may be ahead of the one that is written
NAMED = 5  # broken images that the warning names; the rest are counted
MANY = 0.01  # share of broken images above which the warning is loud
OURS = re.compile(r"shard-\d{6}\.tar|lock")  # what an interrupted pack leaves

log = logging.getLogger(__name__)
T = TypeVar("T")
U = TypeVar("U")


def pack(
    source: Source,
    out: str | Path,
    short_side: int = 256,
    quality: int = 95,
    shard_size: int = 10**9,
    workers: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Write the source's images, in order, into out/shard-000000.tar, ...: NUMBER.jpg and, with labels, NUMBER.cls.

    NUMBER is the position in the source, .cls holds the name of the class. Images with a longer short side are shrunk to
    `short_side` pixels; others keep their size, and upright JPEGs among them every byte. Unreadable images are left out,
    with one warning. `out` appears when it is whole.

    Args:
        quality: of the JPEGs that are made, 1 to 100.
        shard_size: bytes that a shard holds at most, if it holds more than one image.
        workers: threads that decode and encode; 0 for one a core.

    Returns:
        images, kept (those of them whose bytes are the same), broken, shards, bytes_before (the files of the readable
        images), bytes_after (the shards), seconds.

    Raises:
        UserError: `out` exists or cannot be written, or not one image can be read.
    """
    began = time.monotonic()
    workers = workers or cores()
    images = kept = before = 0
    broken: list[str] = []

    def work(path: str) -> tuple[bytes, bytes] | BrokenImage:
        try:
            data = read_file(path)
            return data, shrink(data, path, short_side, quality)
        except BrokenImage as error:
            return error

    with (
        new_folder(Path(out).absolute()) as folder,
        closing(Shards(folder, shard_size)) as shards,
        ThreadPoolExecutor(workers) as pool,
        show_progress(source, progress) as show,
    ):
        for number, result in enumerate(in_order(pool, work, source.paths, AHEAD * workers)):
            if isinstance(result, BrokenImage):
                broken.append(str(result))
            else:
                data, jpeg = result
                files = {"jpg": jpeg}
                if source.labels is not None:
                    files["cls"] = source.classes[source.labels[number]].encode(errors="surrogateescape")
                shards.add(f"{number:09d}", files)
                images, kept, before = images + 1, kept + (jpeg is data), before + len(data)
            show()
        if not images:
            raise UserError(f"{source.name}: none of its {len(source)} images can be read; {'; '.join(broken[:1])}")

    if broken:
        loud = "ATTENTION: " if len(broken) > MANY * len(source) else ""
        count = f"{len(broken)} of {len(source)} images cannot be read and are left out"
        log.warning("%s%s: %s: %s", loud, source.name, count, some(broken, NAMED))
    return {
        "images": images,
        "kept": kept,
        "broken": len(broken),
        "shards": shards.count,
        "bytes_before": before,
        "bytes_after": shards.bytes,
        "seconds": time.monotonic() - began,
    }


def shrink(data: bytes, path: str, short_side: int, quality: int) -> bytes:
    """The image as an upright JPEG of at most that short side: the very bytes if they are one. Raises BrokenImage."""
    # A JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves twice the pixels a side, and whole ones; the area filter does the rest.
    sides = jpeg_size(data) or (1, 1)
    reduction = next((r for r in (8, 4, 2) if min(sides) >= 2 * r * short_side and not any(s % r for s in sides)), 1)
    image = decode(data, path, reduction)
    height, width = (side * reduction for side in image.shape[:2])
    factor = short_side / min(height, width)
    if factor < 1:
        image = resize(image, round(height * factor), round(width * factor))
    elif is_upright_jpeg(data):
        return data
    written, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise BrokenImage(path, f"no JPEG can be made of {image.shape[1]} x {image.shape[0]} pixels")
    return encoded.tobytes()


def is_upright_jpeg(data: bytes) -> bool:
    if not data.startswith(JPEG):
        return False
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(ORIENTATION, 1) == 1
    except Exception:  # OpenCV could read it: it is encoded anew
        return False


def in_order(pool: Executor, work: Callable[[T], U], items: Iterable[T], ahead: int) -> Iterator[U]:
    """As pool.map, but no more than `ahead` items are taken before the first result is."""
    waiting: deque[Future[U]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class Shards:
    """Writes samples into shard-000000.tar, shard-000001.tar, ...; a shard ends before it would grow beyond `size` bytes."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.count = self.bytes = 0
        self.tar: tarfile.TarFile | None = None

    def add(self, key: str, files: dict[str, bytes]) -> None:
        """A sample: contents by extension."""
        needs = sum(tarfile.BLOCKSIZE * (1 + -(-len(content) // tarfile.BLOCKSIZE)) for content in files.values())
        if (
            self.tar and self.tar.offset + needs > self.size - tarfile.RECORDSIZE
        ):  # a record: the mark of the end, padded
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
        if self.tar:
            tar, self.tar = self.tar, None
            tar.close()
            self.bytes += os.path.getsize(str(tar.name))


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder OUT.partial to write into, that is renamed to OUT at the end if all went well. Raises UserError."""
    partial = out.with_name(out.name + ".partial")
    if os.path.lexists(out):
        raise UserError(f"{out} is there already: name a new folder")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with lock(partial):
            start_over(partial)
            yield partial
            partial.rename(out)
            (out / "lock").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{partial} cannot be written: {error}") from error


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other processes from packing into the same folder."""
    with (folder / "lock").open("w") as file:
        try:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except OSError as error:
            raise UserError(f"{folder}: another process packs into it") from error
        yield


def start_over(partial: Path) -> None:
    """Remove what an interrupted pack left, and nothing else."""
    left = [entry for entry in partial.iterdir() if entry.name != "lock"]
    foreign = [entry.name for entry in left if not OURS.fullmatch(entry.name)]
    if foreign:
        raise UserError(f"{partial} holds {foreign[0]}, which is no shard: move the folder away")
    if left:
        log.warning("%s was left by an interrupted pack: starting over", partial)
    for entry in left:
        entry.unlink()


@contextmanager
def show_progress(source: Source, shown: bool) -> Iterator[Callable[[], None]]:
    """Yields a function to call after each image; a bar with images/s on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]} images/s"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(f"packing {escape(source.name)}", total=len(source), speed="")
        done = 0

        def show() -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=1, speed=f"{done / (time.monotonic() - began):,.0f}")

        yield show
