"""A curated set: the folder that `dinolab curate` writes. Its images stay where they are; the set says which of them are in.

The names of the set's files that are read outside of `dinolab.curation` are here, too.
"""

import os
from pathlib import Path

from dinolab.data.addresses import absolute, is_remote
from dinolab.data.sources.kind import Count, Kind, Listing, Request
from dinolab.data.tables import read_table
from dinolab.data.types import Source
from dinolab.errors import UserError

MANIFEST = "curation.json"  # what the images were embedded by
DECISIONS = "decisions.parquet"  # a row for each image: its location, label, and whether it is in
COLUMNS = {"location": "string", "label": "string", "kept": "bool_"}
AGAIN = "give the last `dinolab curate` command again"


class Curated(Kind):
    title = "a curated set (a folder of dinolab curate)"

    def claims(self, path: str) -> bool:
        return not is_remote(path) and os.path.isfile(os.path.join(absolute(path), MANIFEST))

    def files(self, request: Request) -> list[str]:
        file = os.path.join(request.local_address(), DECISIONS)
        if not os.path.isfile(file):
            raise UserError(f"{request.named}: unfinished; {AGAIN}")
        return [file]

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        table = read_table(Path(files[0]), COLUMNS, AGAIN)
        rows = table.filter(table["kept"]).to_pydict()
        if not rows["location"]:
            raise UserError(f"{request.named}: no image is in this set; `dinolab curate explain` says why")
        if any(not location or "\0" in location for location in rows["location"]):
            raise UserError(f"{files[0]}: damaged (an image without a location); {AGAIN}")
        labelled = all(rows["label"])
        return Listing(
            rows["location"],
            rows["label"] if labelled else None,
            "" if labelled else "not every image of the curated set came from a labelled source",
            located=True,
        )


CURATED = Curated()


def folder_of(source: Source) -> Path | None:
    """The folder of the curated set that a source is; None for any other source."""
    folder = Path(source.name.removeprefix("curated:")).expanduser()
    return folder if CURATED.claims(str(folder)) else None
