"""All kinds of source. A new kind is a file in this folder and a line in KINDS."""

import os

from dinolab.data.addresses import absolute, is_remote
from dinolab.data.sources.cifar import CIFAR
from dinolab.data.sources.clips import CLIPS
from dinolab.data.sources.csv_file import CSV
from dinolab.data.sources.curated import CURATED
from dinolab.data.sources.dataset import DATASET
from dinolab.data.sources.folder import FOLDER
from dinolab.data.sources.kind import Kind
from dinolab.data.sources.shards import SHARDS
from dinolab.data.sources.text_list import TEXT
from dinolab.data.sources.video import VIDEO
from dinolab.errors import UserError

KINDS: dict[str, Kind] = {  # the first that claims a path gets it; its name is also the prefix that chooses it
    "text": TEXT,
    "csv": CSV,
    "cifar": CIFAR,
    "curated": CURATED,
    "dataset": DATASET,
    "clips": CLIPS,
    "video": VIDEO,
    "shards": SHARDS,
    "folder": FOLDER,
}


def choose_kind(path: str, named: str) -> tuple[str, str]:
    """Decide which kind of source a path names: the one in its prefix (KIND:PATH), else the first that claims it.

    Args:
        named: the option and path, for messages.

    Returns:
        The kind's name, and the path without the prefix.

    Raises:
        UserError: no kind claims the path.
    """
    prefix, colon, rest = path.partition(":")
    if colon and prefix in KINDS:
        return prefix, rest
    for name, kind in KINDS.items():
        if kind.claims(path):
            return name, path
    if not is_remote(path) and not os.path.exists(absolute(path)):
        raise UserError(f"{named}: no such file or folder")
    raise UserError(f"{named}: this is none of {', '.join(kind.title for kind in KINDS.values())}")


def forget() -> None:
    """Close the files that reading has kept open."""
    for kind in KINDS.values():
        kind.forget()
