"""Listings of images that are kept beside a run, so that the next start need not look through the source again."""

import gzip
import json
import zlib
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from dinolab.data.addresses import stamps
from dinolab.data.sources.kind import Kind, Listing, Request
from dinolab.data.sources.kinds import KINDS
from dinolab.errors import UserError
from dinolab.files import beside
from dinolab.progress import count_up

LARGEST, PIECE = 1 << 31, 1 << 20  # bytes of a listing, and of what is read at once


def list_source(kind: str, request: Request, cache: Path | None) -> Listing:
    """The kept listing if it is still true, else a new one, which is then kept.

    Args:
        kind: a name in KINDS.
        cache: the file that keeps the listing; None keeps nothing.

    Raises:
        UserError: the source cannot be read, or holds no images.
    """
    reader = KINDS[kind]
    try:
        files = reader.files(request)
        key = [kind, request.address, request.columns.chosen(), *stamps(files)]
        listing = read_cache(cache, key, reader) if cache else None
        if listing is None:
            with count_up(f"listing {request.named}", "images") as count:
                listing = reader.list_images(request, files, count)
            if cache:
                write_cache(cache, key, listing)
    except FileNotFoundError as error:
        raise UserError(f"{request.named}: no such file or folder: {error.filename or error}") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        what = "a folder" if isinstance(error, IsADirectoryError) else "no folder"
        raise UserError(f"{request.named}: {what}, and no source of this kind; leave `{kind}:` out") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{request.named}: cannot be read ({error})") from error
    return listing


def read_cache(cache: Path, key: list[Any], kind: Kind) -> Listing | None:
    """The listing that was kept for this very key, if the file is whole and the listing still true."""
    try:
        with gzip.open(cache) as file:  # in pieces: to read more at once takes that much memory, however small the file
            kept = json.loads(b"".join(islice(iter(partial(file.read, PIECE), b""), LARGEST // PIECE)))
        if kept["key"] != key:
            return None
        listing = Listing(**kept["listing"])
        if not is_whole(listing):
            return None
        return listing if kind.is_current(listing) else None
    except (
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        zlib.error,
        RecursionError,
    ):  # missing or damaged
        return None


def is_whole(listing: Listing) -> bool:
    """Whether the fields have the types that they should have: the file may be damaged, or come from somewhere else.

    Raises ValueError for names that no file can have.
    """
    names, labels = listing.names, listing.labels
    "".join(names).encode(errors="surrogateescape")
    return (
        all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in (names, labels or []))
        and (labels is None or len(labels) == len(names))
        and isinstance(listing.unlabelled, str)
        and isinstance(listing.root, str)
        and isinstance(listing.folders, dict)
        and isinstance(listing.located, bool)
    )


def write_cache(cache: Path, key: list[Any], listing: Listing) -> None:
    """Keep a listing. If that fails, the next start takes longer, and that is all."""
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with beside(cache) as place, gzip.open(place, "wt", compresslevel=1) as file:
            json.dump({"key": key, "listing": asdict(listing)}, file)
