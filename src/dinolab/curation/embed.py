"""The first stage of curation: images are embedded once, and facts about them are noted. N images, D features."""

import hashlib
import logging
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dinolab.curation.decisions import STAGES, WORK, lineage, undo, write_decisions
from dinolab.curation.embedder import Embedder
from dinolab.curation.folder import check_folder, refuse_itself, writing
from dinolab.curation.held import Held
from dinolab.curation.names import as_text, problem_of
from dinolab.curation.parts import Part, Parts, crew, keyed, share_out, wait_for
from dinolab.data.addresses import is_remote
from dinolab.data.locations import split
from dinolab.data.sources.curated import MANIFEST
from dinolab.data.types import Source
from dinolab.errors import UserError, counted, some
from dinolab.features.cache import stamp_if_there
from dinolab.features.store import UNFINISHED, Shard, Store, write_array, write_manifest
from dinolab.schemas import CURATION, read_object

log = logging.getLogger(__name__)
IMAGES = 4096  # of a shard
NAMED = 5  # images that a warning names


def embed_store(folder: Path, source: Source, embedder: Embedder) -> Store:
    """Embed the images of a source that the store lacks, or whose files have changed; those of the source that are no more are left out.

    Interrupted, it goes on with the shards that are not there. Stages that follow are undone if anything has changed. Several processes
    share the shards (see dinolab.curation.parts); the first one plans them, and ends the work.

    Raises:
        UserError: the folder holds something else, the store was made by another encoder, another process writes to it, or no image
            can be read.
    """
    refuse_itself(folder, source, "data")
    check_folder(folder)
    refuse_others(folder, embedder)
    files = source.files()
    stamps = {file: as_text(stamp_if_there(file)) for file in files}  # a stamp holds the name
    current = {as_text(path): stamps[split(path)[1][0]] for path in source.paths}
    facts = {"source": source.name, "images": hashlib.sha256(repr(current).encode()).hexdigest(), **embedder.facts()}
    if crew().rank:
        follow(folder, source, embedder, stamps, current, Parts(keyed(folder / WORK, "embed", facts)))
        return Store(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder):
        parts = Parts(keyed(folder / WORK, "embed", facts))
        manifest = open_manifest(folder, source, embedder)
        (folder / "shards").mkdir(exist_ok=True)  # behind the manifest, by which a folder is known for a set
        plan = parts.one("plan", lambda: plan_shards(folder, source, current))
        embed_missing(folder, source, embedder, stamps, plan)
        store = finish(folder, manifest, source)
        parts.remove("plan")
    return store


def plan_shards(folder: Path, source: Source, current: dict[str, str]) -> Part:
    """Mark the rows that no longer hold, and note what is to be embedded: the "wanted" positions of the source, int64 (n,), and the
    number of the "first" new shard."""
    known = drop_outdated(folder, source.name, current)
    taken = [int(shard.rows_file.stem) for shard in Store(folder).shards()]
    wanted = np.array([position for position, path in enumerate(source.paths) if as_text(path) not in known], np.int64)
    return {"wanted": wanted, "first": np.array([max(taken, default=-1) + 1])}


def follow(
    folder: Path, source: Source, embedder: Embedder, stamps: dict[str, str], current: dict[str, str], parts: Parts
) -> None:
    """What all processes but the first do: their share of the shards that it plans, if there are any."""

    def look() -> Part | None:
        if found := parts.find("plan", 1):
            with suppress(UserError):  # the first process has ended the work in this moment
                return {name: np.array(array) for name, array in found[0].items()}
        manifest = read_object(folder / MANIFEST, CURATION) if (folder / MANIFEST).is_file() else {UNFINISHED: True}
        if UNFINISHED in manifest:
            return None
        known, outdated = compare(folder, source.name, current)
        return None if outdated or len(known.intersection(current)) < len(current) else {}

    plan = wait_for(look, f"{folder}: the first task has not begun to embed")
    if plan:
        embed_missing(folder, source, embedder, stamps, plan)
        words = f"{folder}: all shards are done, but the first task has not ended the work"
        wait_for(lambda: None if parts.find("plan", 1) else True, words)


def refuse_others(folder: Path, embedder: Embedder) -> None:
    """Raises UserError where the store is of another encoder or preprocessing."""
    if not (folder / MANIFEST).is_file():
        return
    manifest, facts = read_object(folder / MANIFEST, CURATION), embedder.facts()
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


def open_manifest(folder: Path, source: Source, embedder: Embedder) -> dict[str, Any]:
    """The manifest as it was before, or a new one; in the folder it is marked as unfinished."""
    file = folder / MANIFEST
    if file.is_file():
        manifest = read_object(file, CURATION)
        manifest.pop(UNFINISHED, None)
    else:
        manifest = {
            "dinolab": version("dinolab"),
            **embedder.facts(),
            "parent": parent_of(source),
            "sources": [],
        }
    write_manifest(file, {**manifest, UNFINISHED: True})
    return manifest


def parent_of(source: Source) -> str:
    """The SHA-256 of the last manifest of a curated set that the images come from; empty if they come from none."""
    chain = lineage(source)
    return chain[-1]["sha256"] if chain else ""


def drop_outdated(folder: Path, name: str, current: dict[str, str]) -> set[str]:
    """Mark the rows whose image has changed, or is no more in its source; the locations of all others. See `compare`."""
    known, outdated = compare(folder, name, current)
    for shard, gone in outdated:
        write_array(shard.gone_file, gone)
    return known


def compare(folder: Path, name: str, current: dict[str, str]) -> tuple[set[str], list[tuple[Shard, np.ndarray]]]:
    """The locations of the rows that hold; and the shards with further rows that do not, with what is gone then, bool (N,).

    Args:
        name: of the source.
        current: the stamp of each of the source's images, by location.
    """
    known: set[str] = set()
    outdated = []
    for shard in Store(folder).shards():
        rows = shard.rows("location", "source", "stamp").to_pydict()
        gone = shard.gone(len(rows["location"])).copy()
        before = gone.sum()
        for row, (location, source, stamp) in enumerate(zip(rows["location"], rows["source"], rows["stamp"])):
            is_changed = current[location] != stamp if location in current else source == as_text(name)
            gone[row] |= is_changed or location in known
            if not gone[row]:
                known.add(location)
        if gone.sum() > before:
            outdated.append((shard, gone))
    return known, outdated


def embed_missing(folder: Path, source: Source, embedder: Embedder, stamps: dict[str, str], plan: Part) -> None:
    """Write the images of a plan in whole shards."""
    wanted, first = plan["wanted"], int(plan["first"][0])
    missing = replace(source, paths=[source.paths[i] for i in wanted], labels=None)
    labels = np.full(len(wanted), "", object)
    if source.labels is not None:
        labels[:] = [as_text(source.classes[label]) for label in source.labels[wanted]]
    held = Held(source, embedder, stamps)
    shards = [Shard(folder / "shards" / f"{first + n:06d}.parquet") for n in range(-(-len(wanted) // IMAGES))]

    def write(number: int) -> None:
        some = slice(number * IMAGES, min((number + 1) * IMAGES, len(missing)))
        vectors, facts = held.embed(missing, some.start, some.stop)
        paths = missing.paths[some]
        files = [split(path)[1][0] for path in paths]
        facts |= {
            "location": [as_text(path) for path in paths],
            "problem": [problem_of(path) or problem for path, problem in zip(paths, facts["problem"])],
            "source": [as_text(source.name)] * len(files),
            "label": labels[some],
            "stamp": [stamps[file] for file in files],
            "date": [seconds(file) for file in files],
        }
        if not shards[number].rows_file.exists():
            shards[number].write(vectors, facts)

    def lacking() -> list[int]:
        return [number for number, shard in enumerate(shards) if not shard.rows_file.exists()]

    share_out(lacking, write, len(shards), f"{folder}: shards", lambda done: None)


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
        raise UserError(
            f"{source.name}: none of its {counted(len(source), 'image')} can be read; {store.rows['problem'][0]}"
        )
    lost = np.flatnonzero(store.rows["problem"] != "")
    names = sorted({*manifest["sources"], source.name})
    counts = {"width": store.width, "images": len(store), "unreadable": len(lost), "sources": names}
    changed = {**manifest, **counts, "rows": content_of(store)}
    if changed != manifest:
        undo(folder, STAGES)
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
