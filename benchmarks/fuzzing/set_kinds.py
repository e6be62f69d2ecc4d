"""The files of a curated set, beyond those that a source reads."""

from pathlib import Path

import cv2
import numpy as np

from dinolab.curation.embed import embed_store
from dinolab.curation.embedder import make_embedder
from dinolab.curation.explain import explain
from dinolab.curation.findings import FOLDER, MANIFEST, changed_since
from dinolab.curation.options import ReviewOptions, Viewed
from dinolab.curation.review import FILE, read_decisions, review
from dinolab.data.sources import open_source
from dinolab.features.pixels import PixelEncoder
from dinolab.features.store import open_store, write_array
from dinolab.features.stored import find_stored
from dinolab.features.views import View
from fuzzing.kind import Kind
from fuzzing.mutate import in_json, raw, text

SIZE, PRECISION = 32, "fp32"


def make_set(folder: Path) -> None:
    """A set of four images, one of which is gone from its source, with a review and an audit's manifest."""
    (folder / "images").mkdir()
    for n in range(4):
        picture = np.random.default_rng(n).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{n}.png"), picture)
    how = Viewed(size=str(SIZE), precision=PRECISION, device="cpu", workers=0)
    embedder = make_embedder("pixels", PixelEncoder(), how, False)
    store = embed_store(folder / "set", open_source(str(folder / "images")), embedder)
    write_array(store.shards()[0].gone_file, np.array([False, False, False, True]))
    (folder / "set" / FILE).write_text("image,decision,kind,other\n0.png,drop,near-copy,1.png\nimages/2.png,keep,,\n")
    store = open_store(folder / "set")
    review(store, ReviewOptions())
    (folder / "set" / FOLDER).mkdir()
    (folder / "set" / FOLDER / MANIFEST).write_text('{"stage": "audit", "options": {}, "figures": {}, "parent": "ab"}')


def read_set(folder: Path, name: str) -> None:
    """All that reads the files of a set."""
    if Path(name).name == FILE:
        list(read_decisions(folder / name))
        return
    place = folder / "set"
    find_stored(PixelEncoder(), open_source(str(place)), View((SIZE, SIZE)), PRECISION)
    changed_since(place)
    store = open_store(place)
    explain(store, "2.png")
    store.vectors(store.readable)


FORMS = {
    "set/shards/*": raw,
    "set/review.parquet": raw,
    "set/*.json": in_json,
    "set/audit/*": in_json,
    "set/review.csv": text,
}
KINDS = {"set": Kind(make_set, FORMS, read_set)}
