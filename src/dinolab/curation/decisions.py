"""What each stage decides about each image, kept in a file of the stage, and what follows from all stages together.

    OUT/STAGE.json         the stage's manifest: its options, its figures, and the SHA-256 of the manifest before it, and of the
                           manifest of the images with which it has compared
    OUT/STAGE.parquet      a row for each image of the store, in its order, see Verdicts
    OUT/decisions.parquet  a row for each image: whether it is in, and the stage and reason that decided
    OUT/decisions.csv      the same for people
    OUT/in.txt             the images that are in, one on each line
    OUT/parts/STAGE-*/     parts of a stage, see dinolab.curation.parts

Each stage sees the images that the stages before it have left in; only a review brings others back. N images.
"""

import csv
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dinolab.curation.parts import Parts, keyed, wait_for
from dinolab.data.sources.curated import DECISIONS, MANIFEST, folder_of
from dinolab.data.storage import describe
from dinolab.data.tables import arrow, read_table, write_table
from dinolab.data.types import Source
from dinolab.errors import UserError, counted
from dinolab.features.store import Store, fingerprint, write_manifest
from dinolab.files import beside
from dinolab.schemas import CURATION, read_object

log = logging.getLogger(__name__)
LEAVES_SOME = {  # the stages in the order in which they follow each other, and how each of them is made to leave images in
    "dedup": "give a higher threshold_against=, or other test images",
    "retrieve": "give a smaller at_least=, or other curated images",
    "sample": "give a larger size=",
    "review": "let its file keep some",
}
STAGES = tuple(LEAVES_SOME)
WORK = "parts"  # folder of the parts of stages
COLUMNS = {"kept": "bool_", "reason": "string", "of": "string", "similarity": "float32"}


@dataclass(frozen=True)
class Verdicts:
    """A stage's decisions.

    Attributes:
        kept: bool (N,); False for images that stages before have left out, except for those that a review brings back.
        reason: object (N,), texts; empty for images that stages before have left out.
        of: object (N,), location of the image that decided, such as the one of which it is a copy; empty without one.
        similarity: float32 (N,), cosine similarity with that image; not a number without one.
    """

    kept: np.ndarray
    reason: np.ndarray
    of: np.ndarray
    similarity: np.ndarray


def undecided(images: int) -> Verdicts:
    """Verdicts to be filled in: nothing is kept, and there are no reasons."""
    empty = np.full(images, "", object)
    return Verdicts(np.zeros(images, bool), empty, empty.copy(), np.full(images, np.nan, np.float32))


def read_verdicts(store: Store, stage: str) -> Verdicts:
    return Verdicts(*read_columns(store, stage, *COLUMNS))


def read_columns(store: Store, stage: str, *names: str) -> list[np.ndarray]:
    """Some of the COLUMNS of a stage's decisions, (N,) each. Raises UserError where they are not those of this set."""
    file, way_out = store.folder / f"{stage}.parquet", f"give `dinolab curate {stage}` again"
    table = read_table(file, {name: COLUMNS[name] for name in names}, way_out)
    if len(table) != len(store):
        raise UserError(
            f"{file}: damaged (decisions about {len(table):,} of {counted(len(store), 'image')}); {way_out}"
        )
    return [table[name].to_numpy(zero_copy_only=False) for name in names]


def finished(folder: Path, before: str = "") -> list[str]:
    """The stages that have been done, in their order; those before a stage, where one is named.

    Raises UserError where the manifest of one is damaged.
    """
    done = [stage for stage in STAGES[: STAGES.index(before) if before else None] if is_there(folder, stage)]
    for stage in done:
        try:
            read_object(folder / f"{stage}.json", CURATION)
        except UserError as error:
            raise UserError(f"{error}; give `dinolab curate {stage}` again") from error
    return done


def is_there(folder: Path, stage: str) -> bool:
    """Whether a stage has a manifest, be it damaged."""
    return (folder / f"{stage}.json").is_file()


def before(store: Store, stage: str = "") -> np.ndarray:
    """Rows of the images that a stage chooses among, int64: those that the stages before it have left in; by default, all stages.

    Raises UserError where none are left.
    """
    earlier = finished(store.folder, stage)
    rows = np.flatnonzero(*read_columns(store, earlier[-1], "kept")) if earlier else store.readable
    if not len(rows):
        way_out = f"do that again, and {LEAVES_SOME[earlier[-1]]}" if earlier else "embed some that can be read"
        raise UserError(f"{store.folder}: {earlier[-1] if earlier else 'embed'} has left no images in; {way_out}")
    return rows


def last_manifest(folder: Path, stage: str = "") -> Path:
    """The manifest of the last stage, or of the one before `stage`."""
    done = finished(folder, stage)
    return folder / (f"{done[-1]}.json" if done else MANIFEST)


def lineage(source: Source) -> list[dict[str, Any]]:
    """How the images of a curated set were chosen; empty for any other source.

    Returns:
        The manifests of the set, that of the embedding first, each with its "sha256".
    """
    folder = folder_of(source)
    return lineage_of(folder) if folder else []


def lineage_of(folder: Path) -> list[dict[str, Any]]:
    """The same for the folder of a curated set."""
    return [{**read_object(file, CURATION), "sha256": fingerprint(file)} for file in manifests(folder)]


def manifests(folder: Path) -> list[Path]:
    """The manifests of a set, that of the embedding first."""
    return [folder / MANIFEST, *(folder / f"{stage}.json" for stage in finished(folder))]


def parts_of_stage(store: Store, stage: str, rows: np.ndarray, facts: dict[str, Any], progress: bool) -> Parts:
    """The parts of a stage.

    Args:
        rows: of the images whose embeddings it compares, int64 (n,).
        facts: what else the parts depend on.
    """
    known = {
        "set": fingerprint(store.folder / MANIFEST),
        "rows": hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest(),
        **facts,
    }
    return Parts(keyed(store.folder / WORK, stage, known), progress)


def manifest_of(store: Store, stage: str, options: dict[str, Any], compared: Store | None) -> dict[str, Any]:
    """What a stage's manifest says before there are any figures."""
    return {
        "stage": stage,
        "options": options,
        "parent": fingerprint(last_manifest(store.folder, stage)),
        "compared": fingerprint(compared.folder / MANIFEST) if compared else "",
        "dinolab": version("dinolab"),
    }


def write_stage(
    store: Store,
    stage: str,
    verdicts: Verdicts,
    options: dict[str, Any],
    figures: dict[str, Any],
    compared: Store | None = None,
) -> None:
    """Write a stage's files, and the decisions that follow. Stages after it no longer hold: they are undone, with a warning.

    Args:
        compared: the images with which the set's images were compared.

    Raises:
        UserError: no image would be in. Nothing is changed then.
    """
    pa, folder = arrow(), store.folder
    if not verdicts.kept.any():
        raise UserError(f"{folder}: {stage} would leave no image in, and has changed nothing; {LEAVES_SOME[stage]}")
    undo(folder, STAGES[STAGES.index(stage) + 1 :])
    (folder / f"{stage}.json").unlink(missing_ok=True)
    columns = {
        name: pa.array(getattr(verdicts, name), getattr(pa, kind)(), from_pandas=False)
        for name, kind in COLUMNS.items()
    }
    write_table(folder / f"{stage}.parquet", pa.table(columns))
    write_manifest(folder / f"{stage}.json", {**manifest_of(store, stage, options, compared), "figures": figures})
    write_decisions(store)


def await_stage(store: Store, stage: str, options: dict[str, Any], compared: Store | None = None) -> dict[str, Any]:
    """Wait until the first process has written a stage; its figures.

    Raises UserError where it does not: it may be gone.
    """
    file, wanted = store.folder / f"{stage}.json", manifest_of(store, stage, options, compared)

    def figures() -> dict[str, Any] | None:
        found = read_object(file, CURATION) if file.is_file() and (store.folder / DECISIONS).is_file() else {}
        return found.get("figures") if {**found, **wanted} == found else None

    return wait_for(figures, f"{store.folder}: all parts of {stage} are done, but the first task has not joined them")


def undo(folder: Path, stages: Sequence[str]) -> None:
    """Remove the files of stages that no longer hold, if they have been done, and the decisions, until they are written again."""
    (folder / DECISIONS).unlink(missing_ok=True)
    undone = [stage for stage in stages if is_there(folder, stage)]
    for stage in undone:
        (folder / f"{stage}.json").unlink()
        (folder / f"{stage}.parquet").unlink(missing_ok=True)
    if undone:
        log.warning("%s: what %s chose from has changed; do that again", folder, " and ".join(undone))


def write_decisions(store: Store) -> None:
    """Write what all stages together have decided."""
    pa, rows = arrow(), store.rows
    kept = np.zeros(len(store), bool)
    kept[store.readable] = True
    reason, of = rows["problem"].copy(), np.full(len(store), "", object)
    by = np.where(kept, "", "embed").astype(object)
    similarity = np.full(len(store), np.nan, np.float32)
    for stage in finished(store.folder):
        found = read_verdicts(store, stage)
        new = (kept & (found.reason != "")) | (kept != found.kept)
        by[new] = stage
        for ours, theirs in ((reason, found.reason), (of, found.of), (similarity, found.similarity)):
            ours[new] = theirs[new]
        kept = found.kept
    columns = {"location": rows["location"], "label": rows["label"], "source": rows["source"], "kept": kept}
    columns |= {"stage": by, "reason": reason, "of": of, "similarity": similarity}
    table = pa.table({name: pa.array(values, from_pandas=False) for name, values in columns.items()})
    names = [describe(location) for location in rows["location"]]
    write_table(store.folder / DECISIONS, table)
    with beside(store.folder / "decisions.csv") as place, place.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["filename", "label", "decision", "stage", "reason", "of", "similarity"])
        for row, name in enumerate(names):
            other = describe(of[row]) if of[row] else ""
            near = "" if np.isnan(similarity[row]) else f"{similarity[row]:.4f}"
            writer.writerow([name, rows["label"][row], "in" if kept[row] else "out", by[row], reason[row], other, near])
    with beside(store.folder / "in.txt") as place:
        place.write_text("".join(f"{names[row]}\n" for row in np.flatnonzero(kept)), encoding="utf-8")
