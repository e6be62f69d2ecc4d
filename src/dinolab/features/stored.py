"""Class tokens that a curated set holds already: an image whose file has not changed since is not embedded again."""

import hashlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dinolab.data.addresses import REQUESTS
from dinolab.data.headers import settings as decoding
from dinolab.data.locations import split
from dinolab.data.sources.curated import folder_of
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.features.cache import parts_of, stamp_if_there
from dinolab.features.loading import DIGEST
from dinolab.features.store import Shard, Store
from dinolab.features.views import View

log = logging.getLogger(__name__)


class Tokens(NamedTuple):
    """Class tokens of some images of a source, in its order. n images, D features."""

    cls: Tensor  # float32 (n, D)
    kept: Tensor  # int64 (n,), positions in the source
    digests: Tensor  # uint8 (n, 16), BLAKE2b of the files' contents

    def without(self, positions: Tensor) -> "Tokens":
        """Those of the images at other positions of the source."""
        rows = torch.isin(self.kept, positions, invert=True)
        return Tokens(*(tensor[rows] for tensor in self))

    def joined(self, other: "Tokens") -> "Tokens":
        """These and those of other images of the same source."""
        both = Tokens(*(torch.cat(pair) for pair in zip(self, other)))
        order = both.kept.argsort()
        return Tokens(*(tensor[order] for tensor in both))


def weights_sha256(encoder: nn.Module) -> str:
    """The SHA-256 of an encoder's structure and weights, by which a curated set knows it."""
    sha = hashlib.sha256()
    for part in parts_of(encoder):
        sha.update(part)
    return sha.hexdigest()


def preprocessing(view: View, precision: str) -> str:
    """How images become embeddings, by which a curated set knows it, such as "224 x 224, fp32"."""
    return f"{view.key()}, {precision} {decoding()}".strip()


def find_stored(encoder: nn.Module, source: Source, view: View, precision: str) -> Tokens | None:
    """The class tokens that a source's curated set holds, of the images whose files have not changed since.

    They have passed through float16. A set that is damaged costs a warning.

    Args:
        precision: "fp32" or "bf16".

    Returns:
        None where there are none: the source is no curated set, or another encoder, size or precision made its embeddings.
    """
    folder = folder_of(source)
    if folder is None:
        return None
    store = Store(folder)
    try:
        made_by = store.manifest
        is_same_view = made_by.get("preprocessing") == preprocessing(view, precision)
        if not is_same_view or made_by.get("encoder", {}).get("sha256") != weights_sha256(encoder):
            return None
        return read_tokens(store, source)
    except UserError as error:
        log.warning("%s; until then its images are embedded each time", error)
        return None


def read_tokens(store: Store, source: Source) -> Tokens | None:
    """The store's tokens of a source's images, found by location and stamp; None without any."""
    files = source.files()
    with ThreadPoolExecutor(REQUESTS) as pool:
        stamps = dict(zip(files, pool.map(stamp_if_there, files)))
    wanted = {(path, stamps[split(path)[1][0]]): position for position, path in enumerate(source.paths)}
    parts = [part for shard in store.shards() for part in tokens_of(shard, wanted)]
    if not parts:
        return None
    cls, kept, digests = (np.concatenate(arrays) for arrays in zip(*parts))
    kept, rows = np.unique(kept, return_index=True)
    return Tokens(*(torch.from_numpy(array) for array in (cls[rows], kept, digests[rows])))


def tokens_of(shard: Shard, wanted: dict[tuple[str, str], int]) -> Iterator[tuple[Any, Any, Any]]:
    """The wanted rows of a shard, as Tokens of arrays; nothing where it holds none of them.

    Args:
        wanted: the position in the source by location and stamp.
    """
    table = shard.rows("location", "stamp", "problem", "digest").to_pydict()
    is_gone = shard.gone(len(table["location"]))
    rows, kept = [], []
    for row, image in enumerate(zip(table["location"], table["stamp"])):
        if image in wanted and not is_gone[row] and not table["problem"][row]:
            rows.append(row)
            kept.append(wanted[image])
    if rows:
        digests = np.frombuffer(b"".join(table["digest"][row] for row in rows), np.uint8).reshape(-1, DIGEST)
        yield shard.vectors()[rows].astype(np.float32), np.array(kept, np.int64), digests
