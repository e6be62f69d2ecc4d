"""Images that a stage compares with: test sets and curated sets, in a store of their own below the set that is made."""

from typing import NamedTuple

import numpy as np

from dinolab.curation.embed import embed_store
from dinolab.curation.embedder import make_embedder
from dinolab.curation.folder import refuse_itself
from dinolab.curation.options import Loaded, Viewed
from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.features.inputs import open_encoder
from dinolab.features.store import Store


class References(NamedTuple):
    """Images of another store."""

    store: Store
    rows: np.ndarray  # int64 (M,), of those images that could be read


def open_references(store: Store, name: str, paths: list[str], options: Loaded, progress: bool) -> References:
    """Embed images by the encoder of a store, as far as they are not embedded yet.

    Args:
        name: of the option by which the user named them, and of the folder below the store's.
        paths: as `data.path` takes them.

    Raises:
        UserError: a source is missing, empty or the set itself, or the encoder is no longer the store's.
    """
    made_by = store.manifest["encoder"]
    sources = [open_source(path, option=name) for path in paths]
    for source in sources:
        refuse_itself(store.folder, source, name)
    size, precision = of_preprocessing(store.manifest["preprocessing"])
    how = Viewed(size=size, precision=precision, device=options.device, workers=options.workers)
    embedder = make_embedder(*open_encoder(made_by["name"]), how, progress)
    if embedder.facts()["encoder"]["sha256"] != made_by["sha256"]:
        raise UserError(
            f"{store.folder}: the weights of encoder={made_by['name']} have changed since its images were embedded; embed them again, "
            "into another folder"
        )
    for source in sources:
        embed_store(store.folder / name, source, embedder)
    found = Store(store.folder / name)
    wanted = {location for source in sources for location in source.paths}
    is_wanted = np.array([location in wanted for location in found.rows["location"]])
    return References(found, found.readable[is_wanted[found.readable]])


def of_preprocessing(text: str) -> tuple[str, str]:
    """Size and precision, as the options take them, from a manifest's "224 x 224, fp32"."""
    size, _, rest = text.partition(",")
    return size.replace(" ", ""), rest.split()[0]
