"""The store of a curated set: embeddings and facts of images in shards, and what they were made by.

    OUT/curation.json           the manifest
    OUT/shards/000000.npy       embeddings as the encoder gives them, float16 (N, D); zeros for an image that cannot be read
    OUT/shards/000000.parquet   a row for each of them, see COLUMNS
    OUT/shards/000000.gone.npy  bool (N,): rows whose image was changed or removed since; only if there are any

Shards never change. Each is written whole or not at all, the rows last: a shard without rows is not there. N images, D features.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinolab.data.sources.curated import MANIFEST
from dinolab.data.tables import arrow, read_table, write_table
from dinolab.errors import UserError, reason
from dinolab.files import beside, write_whole
from dinolab.schemas import CURATION, read_object

COLUMNS = {  # of a shard's rows: name, type in pyarrow
    "location": "string",  # see dinolab.data.locations
    "source": "string",  # as the user named it
    "label": "string",  # of the image in its source; empty without labels
    "stamp": "string",  # changes when the file does
    "date": "int64",  # time of modification in seconds since 1970; 0 if unknown
    "problem": "string",  # why the image cannot be read; empty if it can
    "digest": "binary",  # BLAKE2b of the file's content, 16 bytes
    "height": "int32",  # in pixels
    "width": "int32",
    "bytes": "int64",  # of the file
    "hash": "uint64",  # pHash, see dinolab.features.duplicates
}
OFTEN = ("source", "label", "problem")  # columns in which many images have the same text
BLOCK = 1 << 16  # rows that are read at once where all are read
UNFINISHED = "unfinished"  # key of a manifest while images are being embedded
EMBED_AGAIN = (
    "remove the files of this shard, and give `dinolab curate embed` again: it embeds the images that are missing"
)


@dataclass(frozen=True)
class Shard:
    """A pair of files in a store's folder `shards`."""

    rows_file: Path

    @property
    def vectors_file(self) -> Path:
        return self.rows_file.with_suffix(".npy")

    @property
    def gone_file(self) -> Path:
        return self.rows_file.with_suffix(".gone.npy")

    def write(self, vectors: np.ndarray, columns: dict[str, Any]) -> None:
        """Write both files.

        Args:
            vectors: float16 (N, D).
            columns: lists or arrays of N values, by the names in COLUMNS.
        """
        pa = arrow()
        write_array(self.vectors_file, vectors)
        fields = {name: pa.array(columns[name], getattr(pa, kind)()) for name, kind in COLUMNS.items()}
        facts = {"vectors_crc32": str(zlib.crc32(self.vectors_file.read_bytes()))}
        write_table(self.rows_file, pa.table(fields).replace_schema_metadata(facts))

    def rows(self, *names: str) -> Any:
        """A pyarrow.Table of all its rows, with those that are gone; without names, of all COLUMNS. Raises UserError if damaged."""
        return read_table(self.rows_file, {name: COLUMNS[name] for name in names or COLUMNS}, EMBED_AGAIN)

    def gone(self, count: int) -> np.ndarray:
        """Which of its `count` rows are gone, bool (N,)."""
        if not self.gone_file.is_file():
            return np.zeros(count, bool)
        found = read_array(self.gone_file)
        if found.dtype != bool or found.shape != (count,):
            raise UserError(f"{self.gone_file}: damaged (no marks of {count} rows); {EMBED_AGAIN}")
        return found

    def vectors(self, check: bool = True) -> np.ndarray:
        """The embeddings, float16 (N, D), memory-mapped. Raises UserError where the file is not as it was written.

        Args:
            check: whether to compare the checksum, for which the whole file is read.
        """
        found = read_array(self.vectors_file)
        if not check:
            return found
        facts = read_table(self.rows_file, {}, EMBED_AGAIN).schema.metadata or {}
        if str(zlib.crc32(self.vectors_file.read_bytes())).encode() != facts.get(b"vectors_crc32"):
            raise UserError(f"{self.vectors_file}: damaged (its checksum has changed); {EMBED_AGAIN}")
        return found


def write_array(file: Path, array: np.ndarray) -> None:
    with beside(file) as place, place.open("wb") as opened:
        np.save(opened, array)


def read_array(file: Path) -> np.ndarray:
    """An array that is mapped into memory. Raises UserError where the file is missing or cut short."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, TypeError, EOFError, SyntaxError, TokenError, OverflowError) as error:
        raise UserError(f"{file}: missing or damaged ({reason(error)}); {EMBED_AGAIN}") from error


@dataclass(frozen=True)
class Store:
    """A store that has been embedded to its end. Rows that are gone do not count. N images, D features."""

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What it was made by."""
        return read_object(self.folder / MANIFEST, CURATION)

    def shards(self) -> list[Shard]:
        return [Shard(file) for file in sorted((self.folder / "shards").glob("*.parquet"))]

    @cached_property
    def sizes(self) -> list[int]:
        """The number of images of each shard."""
        return [int((~shard.gone(len(shard.vectors(check=False)))).sum()) for shard in self.shards()]

    @cached_property
    def width(self) -> int:
        """The number D of features; 0 if no image can be read."""
        widths = (shard.vectors(check=False).shape[1] for shard in self.shards())
        return next((width for width in widths if width), 0)  # 0 in a shard of which nothing can be read

    @cached_property
    def rows(self) -> "Rows":
        """The columns of all images, arrays (N,) by the names in COLUMNS, each of which is read when it is first asked for."""
        return Rows(self.shards())

    @cached_property
    def readable(self) -> np.ndarray:
        """Rows of the images that could be read, int64, in rising order."""
        found = []
        for shard in self.shards():
            problems = shard.rows("problem")["problem"].to_numpy(zero_copy_only=False)
            found.append((problems == "")[~shard.gone(len(problems))])
        return np.flatnonzero(np.concatenate([np.empty(0, bool), *found]))

    def vectors(self, rows: np.ndarray) -> Tensor:
        """The embeddings of these rows, int64 (n,), as float16 (n, D)."""
        return Embeddings((self, rows))[:]

    def __len__(self) -> int:
        return sum(self.sizes)


class Rows(dict[str, np.ndarray]):
    """The columns of a store by their names. Texts that occur often are kept once."""

    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards

    def __missing__(self, name: str) -> np.ndarray:
        pa = arrow()
        tables = []
        for shard in self.shards:
            table = shard.rows(name)
            tables.append(table.filter(pa.array(~shard.gone(len(table)))))
        column = pa.concat_tables(tables)[name]
        if name in OFTEN:
            column = column.dictionary_encode().combine_chunks()
            texts = column.dictionary.to_numpy(zero_copy_only=False).astype(object)
            self[name] = texts[column.indices.to_numpy()] if len(texts) else np.empty(0, object)
        else:
            self[name] = column.to_numpy(zero_copy_only=False)
        return self[name]


class Embeddings:
    """Embeddings of some images, from one store or several. They are indexed by a slice or by positions, as a tensor (N, D) is."""

    def __init__(self, *groups: tuple[Store, np.ndarray], change: Callable[[Tensor], Tensor] | None = None) -> None:
        """Nothing is read yet.

        Args:
            groups: stores, and rows of each, int64 in rising order.
            change: what is done to embeddings float16 (n, D) before they are given out.
        """
        self.change = change
        self.shards: list[Shard] = []
        sizes: list[int] = []
        rows = []
        for store, chosen in groups:
            rows.append(chosen + sum(sizes))
            self.shards += store.shards()
            sizes += store.sizes
        self.rows = np.concatenate(rows)
        self.width = max(store.width for store, _ in groups)
        self.starts = np.concatenate([[0], np.cumsum(sizes)])  # of the shards, in rows of all stores
        self.checked: set[int] = set()  # shards whose checksum has been compared

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, wanted: slice | Tensor) -> Tensor:
        rows = self.rows[wanted if isinstance(wanted, slice) else wanted.cpu().numpy()]
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        ends = np.searchsorted(ordered, self.starts)
        found = np.zeros((len(rows), self.width), np.float16)
        for number in np.flatnonzero(np.diff(ends)):
            some = slice(ends[number], ends[number + 1])
            part = self.read(int(number), ordered[some] - self.starts[number])
            if part.shape[1]:  # 0 in a shard of which nothing can be read
                found[order[some]] = part
        block = torch.from_numpy(found)
        return self.change(block) if self.change else block

    def read(self, number: int, rows: np.ndarray) -> np.ndarray:
        """Some rows of a shard, which are in rising order and do not count those that are gone."""
        shard = self.shards[number]
        vectors = shard.vectors(check=number not in self.checked)
        self.checked.add(number)
        if shard.gone_file.is_file():
            rows = np.flatnonzero(~shard.gone(len(vectors)))[rows]
        is_run = len(rows) == rows[-1] - rows[0] + 1
        return vectors[rows[0] : rows[-1] + 1] if is_run else vectors[rows]

    def split(self, size: int = BLOCK) -> Iterator[Tensor]:
        """All rows in their order, at most `size` at once."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


Matrix = Tensor | Embeddings
"""Features (N, D): in memory, or on the disk."""


def open_store(folder: str | Path) -> Store:
    """The store in a folder. Raises UserError where there is none, or embedding was interrupted."""
    store = Store(Path(folder))
    if not (store.folder / MANIFEST).is_file():
        raise UserError(f"{folder}: no embeddings there; begin with `dinolab curate embed {folder} data=DIR`")
    if UNFINISHED in store.manifest:
        raise UserError(f"{folder}: embedding was interrupted; give the same `dinolab curate embed` again")
    return store


def fingerprint(file: Path) -> str:
    """The SHA-256 of a manifest, by which what follows from it names its parent."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_manifest(file: Path, content: dict[str, Any]) -> None:
    write_whole(file, (json.dumps(content, indent=2) + "\n").encode())
