"""The images that are looked at, numbered from 0, and what is known of them without an encoder. N images."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dinolab.data.addresses import is_remote
from dinolab.data.locations import join, split
from dinolab.data.sources import open_source, take
from dinolab.data.sources.curated import CURATED
from dinolab.data.sources.kinds import KINDS
from dinolab.data.storage import describe
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.explore.options import ExploreOptions
from dinolab.features.store import Store, open_store

UNKNOWN = "unknown"


class Gone(UserError):
    """An image is not there any more, or has changed since it was listed."""


@dataclass(frozen=True)
class Collection:
    """Images of a source; of a curated set all that could be read, also those that its stages have left out."""

    source: Source
    store: Store | None  # of a curated set
    rows: np.ndarray  # int64 (N,), their rows in the store; empty without one
    named: list[str] | None = None  # of a part: the names of its images within the whole

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def locations(self) -> list[str]:
        """The location of each image in words, as `decisions.csv` and findings have it, and `data.path` takes it where it is a file."""
        return [describe(path) for path in self.source.paths]

    @cached_property
    def names(self) -> list[str]:
        """Below the folder that all images share, as the source itself names them."""
        return self.source.names() if self.named is None else self.named

    @cached_property
    def short(self) -> list[str]:
        """Locations in words without the folder that all images share; `dinolab curate review` takes them."""
        found = []
        for name, path in zip(self.names, self.source.paths):
            kind, (_, *inside) = split(path)
            file = name.removesuffix(f"/{inside[-1]}") if inside else name
            found.append(describe(join(kind, file, *inside)) if inside else name)
        return found

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Numbers of images by their locations in words."""
        return {location: number for number, location in enumerate(self.locations)}

    @cached_property
    def dates(self) -> np.ndarray:
        """When the file of each image was last changed, float64 (N,), seconds since 1970; not a number where that is unknown."""
        of = {file: changed(file) for file in self.source.files()}
        return np.array([of[split(path)[1][0]] for path in self.source.paths])

    @cached_property
    def groups(self) -> np.ndarray:
        """The number of the video whose frame an image is, int64 (N,); -1 for other images."""
        sequences = {name for name, kind in KINDS.items() if kind.sequences}
        files = [parts[0] if kind in sequences else "" for kind, parts in map(split, self.source.paths)]
        number = {file: n for n, file in enumerate(dict.fromkeys(file for file in files if file))}
        return np.array([number.get(file, -1) for file in files])

    def beside(self, number: int) -> dict[str, int | None] | None:
        """The frames before and after a frame of a video; None for other images."""
        group = self.groups[number]
        if group < 0:
            return None
        members = np.flatnonzero(self.groups == group)
        at = int(np.searchsorted(members, number))
        return {
            "previous": int(members[at - 1]) if at else None,
            "next": int(members[at + 1]) if at + 1 < len(members) else None,
        }

    def part(self, index: np.ndarray) -> "Collection":
        """The images at these positions, int64 (n,)."""
        if len(index) == len(self):
            return self
        rows = self.rows[index] if self.store else self.rows
        return Collection(take(self.source, index), self.store, rows, [self.names[n] for n in index])

    def check(self, number: int) -> None:
        """Raises Gone where the image's file has changed since it was listed, or is not there any more."""
        file, before = split(self.source.paths[number])[1][0], self.dates[number]
        if np.isfinite(before) and changed(file) != before:
            raise Gone(f"{self.locations[number]}: it was changed or removed meanwhile; start the explorer again")


def changed(file: str) -> float:
    """When a local file was last changed, in seconds since 1970; not a number if that is unknown."""
    try:
        return np.nan if is_remote(file) else Path(file).stat().st_mtime
    except OSError:
        return np.nan


def open_collection(options: ExploreOptions) -> Collection:
    """The images that `data=` names. Raises UserError where there are none."""
    folder = options.data.removeprefix("curated:")
    if not CURATED.claims(folder):
        source = open_source(options.data, options, option="data")
        return Collection(source, None, np.empty(0, np.int64))
    store = open_store(Path(folder).expanduser())
    rows = store.readable
    names = store.rows["label"][rows]
    classes = sorted({name for name in names if name})
    labels = np.array([classes.index(name) if name else -1 for name in names]) if classes else None
    source = Source(options.data, store.rows["location"][rows].tolist(), labels, classes)
    return Collection(source, store, rows)
