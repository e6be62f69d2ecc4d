"""Images that come from a curated set which the same encoder has embedded: its embeddings are taken, and nothing is computed.

N images, D features.
"""

import logging
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from dinolab.curation.embedder import Embedder
from dinolab.data.locations import split
from dinolab.data.sources.curated import folder_of
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.features.store import Shard, Store

log = logging.getLogger(__name__)
FACTS = ("problem", "digest", "hash", "bytes", "height", "width")  # columns that an Embedder gives


class Held:
    """What a source's curated set holds of its images."""

    def __init__(self, source: Source, embedder: Embedder, stamps: dict[str, str]) -> None:
        """A set that is damaged costs a warning.

        Args:
            stamps: of the files as they are now. An image that has changed since it was embedded is embedded again.
        """
        self.embedder = embedder
        self.places: dict[str, tuple[Shard, int]] = {}  # by location; the row counts those that are gone
        folder, facts = folder_of(source), embedder.facts()
        if folder is None:
            return
        try:
            store = Store(folder)
            made_by = store.manifest
            is_same_view = made_by.get("preprocessing") == facts["preprocessing"]
            if is_same_view and made_by.get("encoder", {}).get("sha256") == facts["encoder"]["sha256"]:
                self.places = find_places(store, stamps)
        except UserError as error:
            log.warning("%s; until then its images are embedded again", error)

    def embed(self, source: Source, first: int, stop: int) -> tuple[np.ndarray, dict[str, Any]]:
        """As Embedder.embed, which is asked for those images alone that the set does not hold."""
        paths = source.paths[first:stop]
        rest = [number for number, path in enumerate(paths) if path not in self.places]
        if len(rest) == len(paths):
            return self.embedder.embed(source, first, stop)
        parts = []
        if rest:
            lacking = replace(source, paths=[paths[number] for number in rest], labels=None)
            parts.append((rest, *self.embedder.embed(lacking, 0, len(rest))))
        by_shard = defaultdict(list)
        for number, path in enumerate(paths):
            if path in self.places:
                by_shard[self.places[path][0]].append(number)
        for shard, numbers in by_shard.items():
            rows = [self.places[paths[number]][1] for number in numbers]
            table = shard.rows(*FACTS).take(rows).to_pydict()
            parts.append((numbers, shard.vectors()[rows], table))
        vectors = np.zeros((len(paths), max(part.shape[1] for _, part, _ in parts)), np.float16)
        facts: dict[str, list[Any]] = {name: [None] * len(paths) for name in FACTS}
        for numbers, part, table in parts:
            vectors[numbers, : part.shape[1]] = part  # no features where nothing can be read
            for name in FACTS:
                for number, value in zip(numbers, table[name]):
                    facts[name][number] = value
        return vectors, facts


def find_places(store: Store, stamps: dict[str, str]) -> dict[str, tuple[Shard, int]]:
    """Where the embedding of each image lies whose file is as it was. Raises UserError where the set is damaged."""
    found = {}
    for shard in store.shards():
        table = shard.rows("location", "stamp", "problem").to_pydict()
        gone = shard.gone(len(table["location"]))
        shard.vectors()  # compares the checksum, now that there is still another way
        for row, (location, stamp) in enumerate(zip(table["location"], table["stamp"])):
            if not gone[row] and not table["problem"][row] and stamps.get(split(location)[1][0]) == stamp:
                found[location] = shard, row
    return found
