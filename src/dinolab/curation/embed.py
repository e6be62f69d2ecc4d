"""The first stage of curation: images are embedded once, and facts about them are noted. N images, D features."""

import hashlib
import logging
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinolab.curation.decisions import finished, lineage, undo, write_decisions
from dinolab.curation.options import Viewed
from dinolab.data.addresses import is_remote
from dinolab.data.locations import split
from dinolab.data.sources.curated import MANIFEST
from dinolab.data.storage import describe
from dinolab.data.types import Source
from dinolab.errors import UserError, some
from dinolab.features.cache import stamp_if_there
from dinolab.features.duplicates import perceptual_hash
from dinolab.features.extract import Views
from dinolab.features.inputs import extraction_arguments
from dinolab.features.loading import DIGEST, digest
from dinolab.features.options import FeatureOptions
from dinolab.features.store import UNFINISHED, Shard, Store, write_array, write_manifest
from dinolab.features.stored import preprocessing, weights_sha256
from dinolab.features.views import View
from dinolab.files import lock
from dinolab.models.encoder import refuse_infinite
from dinolab.schemas import CURATION, read_object

log = logging.getLogger(__name__)
IMAGES = 4096  # of a shard
NAMED = 5  # images that a warning names
NOTE = np.dtype([("digest", f"V{DIGEST}"), ("hash", "<u8"), ("bytes", "<i8"), ("height", "<i4"), ("width", "<i4")])


def note(data: bytes, image: np.ndarray) -> bytes:
    """A NOTE of a file: its digest, pHash and sizes; `image` is uint8 (H, W, 3)."""
    facts = (digest(data, image), perceptual_hash(image), len(data), *image.shape[:2])
    return np.array([facts], NOTE).tobytes()


@dataclass(frozen=True)
class Embedder:
    """An encoder and how images are shown to it, the same for a whole store."""

    name: str  # by which it can be loaded again
    network: Any
    device: torch.device
    size: tuple[int, int]  # height and width of the images, in pixels
    precision: str
    workers: int
    progress: bool

    def facts(self) -> dict[str, Any]:
        """What embeddings depend on, for the manifest."""
        encoder = {"name": self.name, "sha256": weights_sha256(self.network)}
        return {"encoder": encoder, "preprocessing": preprocessing(View(self.size), self.precision)}

    def embed(self, source: Source, first: int, stop: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Embeddings float16 (N, D) of the images from `first` up to `stop`, with D = 0 if none can be read, and columns of facts."""
        how = (self.device, View(self.size).batch_size, self.workers, self.precision, self.progress)
        tensors, reasons = Views(self.network, source, View(self.size), *how, note=note).share(first, stop, 1, False)
        kept = tensors["kept"].numpy() - first if tensors else np.empty(0, np.int64)
        lost = np.setdiff1d(np.arange(stop - first), kept)
        features = tensors["block00"] if tensors else torch.empty(0, 0)
        refuse_infinite(features, self.network, lambda row: describe(source.paths[first + kept[row]]))
        vectors = np.zeros((stop - first, features.shape[1]), np.float16)
        with np.errstate(over="ignore"):
            vectors[kept] = features.numpy()
        if not np.isfinite(vectors).all():
            raise UserError(f"encoder={self.name}: its features are larger than 65,504 and do not fit into 16 bits")
        notes = np.zeros(stop - first, NOTE)
        if tensors:
            notes[kept] = tensors["digests"].numpy().view(NOTE)[:, 0]
        problems = np.full(stop - first, "", object)
        problems[lost] = reasons
        facts = {name: np.ascontiguousarray(notes[name]) for name in ("hash", "bytes", "height", "width")}
        return vectors, {"problem": problems, "digest": [bytes(one) for one in notes["digest"]], **facts}


def make_embedder(name: str, network: Any, options: Viewed, progress: bool) -> Embedder:
    """An embedder for an opened encoder, which is moved to the device."""
    viewed = {name: getattr(options, name) for name in ("size", "precision", "device", "workers")}
    how = extraction_arguments(network, FeatureOptions(**viewed), progress)
    network.to(how["device"])
    return Embedder(name, network, how["device"], how["size"], how["precision"], how["workers"], progress)


def embed_store(folder: Path, source: Source, embedder: Embedder) -> Store:
    """Embed the images of a source that the store lacks, or whose files have changed; those of the source that are no more are left out.

    Interrupted, it goes on with the first shard that is not there. Stages that follow are undone if anything has changed.

    Raises:
        UserError: the store was made by another encoder, another process writes to it, or no image can be read.
    """
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    try:
        held = lock(folder / "lock")
    except BlockingIOError as error:
        raise UserError(f"{folder}: another process is writing to it; wait until it has ended") from error
    with held:
        manifest = open_manifest(folder, source, embedder)
        stamps = dict(zip(source.files(), map(stamp_if_there, source.files())))
        current = {path: stamps[split(path)[1][0]] for path in source.paths}
        refuse_names(source)
        known = drop_outdated(folder, source.name, current)
        wanted = [position for position, path in enumerate(source.paths) if path not in known]
        if wanted:
            embed_missing(folder, source, embedder, stamps, np.array(wanted))
        return finish(folder, manifest, source)


def open_manifest(folder: Path, source: Source, embedder: Embedder) -> dict[str, Any]:
    """The manifest as it was before, or a new one; in the folder it is marked as unfinished.

    Raises UserError where the store is of another encoder or preprocessing.
    """
    file, facts = folder / MANIFEST, embedder.facts()
    if not file.is_file():
        manifest = {"dinolab": version("dinolab"), **facts, "parent": parent_of(source), "sources": []}
        write_manifest(file, {**manifest, UNFINISHED: True})
        return manifest
    manifest = read_object(file, CURATION)
    manifest.pop(UNFINISHED, None)
    before = manifest.get("encoder", {})
    if before.get("sha256") != facts["encoder"]["sha256"]:
        raise UserError(
            f"{folder}: its images were embedded by encoder={before.get('name')} (SHA-256 {str(before.get('sha256'))[:12]}), and the "
            f"weights of encoder={embedder.name} are others ({facts['encoder']['sha256'][:12]}); write to another folder"
        )
    if manifest.get("preprocessing") != facts["preprocessing"]:
        raise UserError(
            f"{folder}: its images were embedded at {manifest.get('preprocessing')}, and not at {facts['preprocessing']}; "
            "give the same size and precision, or write to another folder"
        )
    write_manifest(file, {**manifest, UNFINISHED: True})
    return manifest


def refuse_names(source: Source) -> None:
    """Raises UserError where an image's name is no text in UTF-8, as Parquet needs it."""
    for path in source.paths:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{describe(path)}: its name is not in UTF-8, which Parquet files need; rename it"
            ) from error


def parent_of(source: Source) -> str:
    """The SHA-256 of the last manifest of a curated set that the images come from; empty if they come from none."""
    chain = lineage(source)
    return chain[-1]["sha256"] if chain else ""


def drop_outdated(folder: Path, name: str, current: dict[str, str]) -> set[str]:
    """Mark the rows whose image has changed, or is no more in its source; the locations of all others.

    Args:
        name: of the source.
        current: the stamp of each of the source's images, by location.
    """
    known: set[str] = set()
    for shard in Store(folder).shards():
        rows = shard.rows("location", "source", "stamp").to_pydict()
        gone = shard.gone(len(rows["location"])).copy()
        before = gone.sum()
        for row, (location, source, stamp) in enumerate(zip(rows["location"], rows["source"], rows["stamp"])):
            is_changed = current[location] != stamp if location in current else source == name
            gone[row] |= is_changed or location in known
            if not gone[row]:
                known.add(location)
        if gone.sum() > before:
            write_array(shard.gone_file, gone)
    return known


def embed_missing(folder: Path, source: Source, embedder: Embedder, stamps: dict[str, str], wanted: np.ndarray) -> None:
    """Write the images at these positions of the source, int64 (n,), in whole shards."""
    missing = replace(source, paths=[source.paths[i] for i in wanted], labels=None)
    labels = np.full(len(wanted), "", object)
    if source.labels is not None:
        labels[:] = [source.classes[label] for label in source.labels[wanted]]
    taken = [int(shard.rows_file.stem) for shard in Store(folder).shards()]
    numbers = count(max(taken, default=-1) + 1)
    for first in range(0, len(missing), IMAGES):
        stop = min(first + IMAGES, len(missing))
        vectors, facts = embedder.embed(missing, first, stop)
        files = [split(path)[1][0] for path in missing.paths[first:stop]]
        facts |= {
            "location": missing.paths[first:stop],
            "source": [source.name] * (stop - first),
            "label": labels[first:stop],
            "stamp": [stamps[file] for file in files],
            "date": [seconds(file) for file in files],
        }
        Shard(folder / "shards" / f"{next(numbers):06d}.parquet").write(vectors, facts)


def seconds(file: str) -> int:
    """A local file's time of modification, in seconds since 1970; 0 where there is none."""
    try:
        return 0 if is_remote(file) else int(Path(file).stat().st_mtime)
    except OSError:
        return 0


def finish(folder: Path, manifest: dict[str, Any], source: Source) -> Store:
    """Complete the manifest, undo the stages that followed if the store has changed, and write the decisions."""
    store = Store(folder)
    if not len(store.readable):
        raise UserError(f"{source.name}: none of its {len(source)} images can be read; {store.rows['problem'][0]}")
    lost = np.flatnonzero(store.rows["problem"] != "")
    names = sorted({*manifest["sources"], source.name})
    width = store.vectors(np.array([0])).shape[1]
    counts = {"width": width, "images": len(store), "unreadable": len(lost), "sources": names}
    changed = {**manifest, **counts, "rows": content_of(store)}
    if changed != manifest:
        undo(folder, finished(folder))
    write_manifest(folder / MANIFEST, changed)
    if len(lost):
        named = some([f"{store.rows['problem'][row]}" for row in lost], NAMED)
        log.warning("%s of %s images cannot be read and are out: %s", f"{len(lost):,}", f"{len(store):,}", named)
    store = Store(folder)
    write_decisions(store)
    return store


def content_of(store: Store) -> str:
    """The SHA-256 over the location and the content of each image in turn."""
    sha = hashlib.sha256()
    for location, content in zip(store.rows["location"], store.rows["digest"]):
        sha.update(location.encode(errors="surrogateescape") + b"\n" + content)
    return sha.hexdigest()
