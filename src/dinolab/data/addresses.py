"""Addresses of files: a path, a pattern such as /data/{000..099}.tar, or an address that fsspec reads, such as s3://bucket/*.tar."""

import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from dinolab.errors import UserError
from dinolab.files import beside

HEIF = find_spec("pillow_heif") is not None  # whether there is the plugin with which Pillow reads HEIC
HEIC = (".heic", ".heif")
IMAGES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif",
    ".jfif", ".jpe", ".jp2", ".j2k", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".dib",
    *(HEIC if HEIF else ()),
)  # fmt: skip
MOST_BYTES = 1 << 31  # of an encoded image
MOST_FILES = 1_000_000  # that the braces of a pattern may stand for
REQUESTS = 16  # to remote storage at the same time
KEPT = "simplecache::"  # before an address: files are copied to local disk when first read


def is_remote(address: str) -> bool:
    """Whether an address names remote storage and not a path."""
    return "://" in address and not os.path.isabs(address)


def absolute(path: str) -> str:
    """The absolute path, with ~ expanded; an address of remote storage stays as it is."""
    return path if is_remote(path) else os.path.abspath(os.path.expanduser(path))


def is_file_name(path: str, extension: str) -> bool:
    """Whether a path, a pattern or an address ends with this extension and is not a folder."""
    return path.lower().endswith(extension) and not os.path.isdir(absolute(path))


def find_files(address: str, extension: str) -> list[str]:
    """List the files that an address stands for: the file itself, those in a folder, or those that a pattern names.

    Patterns are {000..099}, {a,b} and *. Only for * does this look for files; other patterns may name files that are missing.

    Args:
        extension: ending of the files of a folder, as ".tar".

    Raises:
        OSError, UserError: the storage cannot be reached.
    """
    if is_remote(address):
        pattern = address if address.endswith(extension) else f"{address.rstrip('/')}/*{extension}"
        with as_os_error():
            return unique(file for one in braces(pattern) for file in find_remote(one))
    if os.path.isfile(address):
        return [address]
    if os.path.isdir(address):
        names = sorted(name for name in os.listdir(address) if name.lower().endswith(extension) and name[0] != ".")
        return [os.path.join(address, name) for name in names]
    return unique(file for one in braces(address) for file in sorted(glob.glob(one)) or [one])


def unique(files: Iterable[str]) -> list[str]:
    """The files, each once and in order: patterns may overlap."""
    return list(dict.fromkeys(files))


def find_remote(address: str) -> list[str]:
    """As `find_files`, for an address of remote storage without braces."""
    if "*" not in address:
        return [address]
    start = address.rfind("::") + 2 if "::" in address else 0
    protocol = address[start:].partition("://")[0]
    fs, path = filesystem(address)
    found = [path if "://" in path else f"{protocol}://{path}" for path in sorted(fs.glob(path))]
    return [address[:start] + path for path in found] or [address]


def braces(pattern: str) -> list[str]:
    """Expand braces as bash does: numbers, with their leading zeros ({000..099}), and lists ({a,b})."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not match:
        return [pattern]
    first, last, words = match.groups()
    if words is None and (len(first) > 9 or len(last) > 9 or abs(int(first) - int(last)) >= MOST_FILES):
        raise UserError(f"{pattern}: {{{first}..{last}}} stands for more than {MOST_FILES:,} files")
    if words is None:
        width = len(first) if first.startswith("0") else 0
        low, high = sorted((int(first), int(last)))
        choices = [f"{number:0{width}d}" for number in range(low, high + 1)]
    else:
        choices = words.split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    found: list[str] = []
    for choice in choices:
        found += braces(head + choice + tail)
        if len(found) > MOST_FILES:
            raise UserError(f"{pattern}: stands for more than {MOST_FILES:,} files")
    return found


def stamps(files: list[str]) -> list[str]:
    """The `stamp` of each file. Raises OSError if one cannot be reached."""
    with as_os_error(), ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(stamp, files))


def stamp(file: str) -> str:
    """A text that changes when the file does: its address, its size and, if it is local, its time of modification."""
    if is_remote(file):
        fs, path = filesystem(file)
        return f"{file} {fs.info(path)['size']}"
    status = os.stat(file)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(f"{file} is not a regular file")
    return f"{file} {status.st_mtime_ns} {status.st_size}"


def localise(address: str) -> str:
    """The path of the local copy, if the address begins with simplecache::, else the address itself."""
    return local_copy(address) if address.startswith(KEPT) else address


def read_regular(path: str) -> bytes:
    """The content of a local file.

    Raises OSError if it cannot be read, is no regular file (a pipe would never end, nor would /dev/zero), or is too large for an image.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        if status.st_size > MOST_BYTES:
            raise OSError(f"{status.st_size:,} bytes are too many for an image")
        return file.read()


def head_of(path: str) -> bytes:
    """The first bytes of a regular local file, enough to recognise an image. Raises OSError if it cannot be read."""
    with open(path, "rb", buffering=0) as file:
        return file.read(16)


def open_file(address: str) -> BinaryIO:
    """Open a local or remote file for reading at any position. Raises OSError, UserError, and whatever remote storage raises."""
    address = localise(address)
    if not is_remote(address):
        return open(address, "rb")
    fs, path = filesystem(address)
    return fs.open(path, "rb")


@cache
def local_copy(address: str) -> str:
    """The path of the copy of a remote file, which the first call makes, under a name that changes with the file's size.

    fsspec's own simplecache writes under the final name, so that a killed process leaves half a file that looks whole.
    """
    import fsspec

    fs, path = filesystem(address)
    set_by_user = fsspec.config.conf.get("simplecache", {}).get("cache_storage")
    folder = Path(set_by_user or "~/.cache/dinolab/shards").expanduser()
    copy = folder / hashlib.sha256(f"{address} {fs.info(path)['size']}".encode()).hexdigest()[:32]
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with beside(copy) as place:
            fs.get_file(path, str(place))
    return str(copy)


@contextmanager
def local_only(way_out: str) -> Iterator[None]:
    """Inside the block this process reads nothing from remote storage: that is refused by a UserError that ends with `way_out`."""
    global _refused
    before, _refused = _refused, way_out
    try:
        yield
    finally:
        _refused = before


_refused = ""  # the way out, where remote storage must not be read


def filesystem(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Raises UserError inside `local_only`, or if the package for it is not installed.
    """
    if _refused:
        raise UserError(f"{address}: not opened, it is remote storage; {_refused}")
    import fsspec

    try:
        return fsspec.core.url_to_fs(address.removeprefix(KEPT))
    except (ImportError, ValueError) as error:  # fsspec names the package
        raise UserError(f"{address}: {str(error).splitlines()[0]}") from error


@contextmanager
def as_os_error() -> Iterator[None]:
    """Turn any exception of a storage library into an OSError with the first line of its first cause; UserError passes."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        raise OSError(next(iter(str(cause).splitlines()), type(cause).__name__)) from error
