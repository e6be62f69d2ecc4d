"""Shrink all images of a source once: JPEGs of a given short side in WebDataset shards, which are a source themselves."""

import io
import logging
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import cv2
from PIL import Image

from dinolab.data.decode import ORIENTATION, BrokenImage, decode, jpeg_size, read_file
from dinolab.data.headers import JPEG
from dinolab.data.pack_folder import ShardWriter, new_folder
from dinolab.data.types import Source
from dinolab.data.views import resize
from dinolab.errors import UserError, some
from dinolab.machine import cores
from dinolab.progress import progress_bar

AHEAD = 4  # images that each thread may be ahead of the one that is written
NAMED = 5  # broken images that the warning names; the rest are counted
MANY = 0.01  # share of broken images above which the warning begins with ATTENTION

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
    """Write the source's images, in order, into out/shard-000000.tar and so on: NUMBER.jpg and, with labels, NUMBER.cls.

    NUMBER is the image's position in the source, and .cls holds the name of its class. Images with a longer short side are shrunk
    to `short_side` pixels. Other images keep their size, and upright JPEGs among them are copied byte by byte. Images that cannot
    be read are left out, with one warning for all. The folder `out` appears when it is whole.

    Args:
        out: the folder to make.
        short_side: longest short side, in pixels.
        quality: quality of the JPEGs that are made, 1 to 100.
        shard_size: bytes that a shard holds at most, if it holds more than one image.
        workers: threads that decode and encode; 0 for one thread for each core.
        progress: True shows a bar on stderr.

    Returns:
        The number of `images` written, `kept` (copied byte by byte), `broken` (left out) and `shards`; `bytes_before` (files of
        the images written), `bytes_after` (the shards), and `seconds`.

    Raises:
        UserError: `out` exists or cannot be written, not one image can be read, or shards would merge two classes.
    """
    check_classes(source)
    began = time.monotonic()
    done: dict[str, Any] = {"images": 0, "kept": 0, "broken": 0, "bytes_before": 0}
    broken: list[str] = []
    with (
        new_folder(Path(out).absolute()) as folder,
        closing(ShardWriter(folder, shard_size)) as shards,
        closing(shrink_all(source, short_side, quality, workers or cores())) as results,
        progress_bar(f"packing {source.name}", len(source), progress, unit="images") as advance,
    ):
        for number, result in enumerate(results):
            advance(1)
            if isinstance(result, BrokenImage):
                broken.append(str(result))
                continue
            before, jpeg = result
            files = {"jpg": jpeg}
            if source.labels is not None:
                files["cls"] = source.classes[source.labels[number]].encode(errors="surrogateescape")
            shards.add(f"{number:09d}", files)
            done["images"] += 1
            done["kept"] += jpeg is before
            done["bytes_before"] += len(before)
        if not done["images"]:
            raise UserError(f"{source.name}: none of its {len(source)} images can be read; {'; '.join(broken[:1])}")
    warn_of_broken(source, broken)
    sizes = {"broken": len(broken), "shards": shards.count, "bytes_after": shards.bytes}
    return {**done, **sizes, "seconds": time.monotonic() - began}


def check_classes(source: Source) -> None:
    """Raises UserError where classes differ by nothing but blanks at their ends, which readers of .cls files remove."""
    stripped: dict[str, str] = {}
    for name in source.classes:
        other = stripped.setdefault(name.strip(), name)
        if other != name or not name.strip():
            raise UserError(
                f"{source.name}: the labels {other!r} and {name!r} would be one in shards; rename one of them"
            )


def warn_of_broken(source: Source, broken: list[str]) -> None:
    """Log one warning that names the images which cannot be read, if there are any."""
    if broken:
        loud = "ATTENTION: " if len(broken) > MANY * len(source) else ""
        count = f"{len(broken)} of {len(source)} images cannot be read and are left out"
        log.warning("%s%s: %s: %s", loud, source.name, count, some(broken, NAMED))


def shrink_all(
    source: Source, short_side: int, quality: int, workers: int
) -> Generator[tuple[bytes, bytes] | BrokenImage, None, None]:
    """Yields for each image, in order, its file and the JPEG that `shrink` makes of it, or why it cannot be read."""

    def work(path: str) -> tuple[bytes, bytes] | BrokenImage:
        try:
            data = read_file(path)
            return data, shrink(data, path, short_side, quality)
        except BrokenImage as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        yield from in_order(pool, work, source.paths, AHEAD * workers)


def shrink(data: bytes, path: str, short_side: int, quality: int) -> bytes:
    """Make an upright JPEG with at most this short side from an encoded image.

    Returns:
        `data` itself if it is such a JPEG already.

    Raises:
        BrokenImage: the image cannot be decoded, or no JPEG can have its size.
    """
    # A JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves at least twice the short side and divides both sides evenly.
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
        raise BrokenImage(path, f"no JPEG can have {image.shape[1]} x {image.shape[0]} pixels")
    return encoded.tobytes()


def is_upright_jpeg(data: bytes) -> bool:
    """Whether the bytes are a JPEG that is shown as it is stored, without being turned."""
    if not data.startswith(JPEG):
        return False
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return image.getexif().get(ORIENTATION, 1) == 1
    except Exception:  # Pillow cannot read it, though OpenCV could: it is encoded anew
        return False


def in_order(pool: Executor, work: Callable[[T], U], items: Iterable[T], ahead: int) -> Iterator[U]:
    """As pool.map, but no more than `ahead` items are taken before the first result has been."""
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
