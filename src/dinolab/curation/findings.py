"""What an audit finds: the kinds of findings, and the files that tell of them.

OUT/audit/findings.csv  a line for each finding, with an empty column in which a person may decide
OUT/audit/audit.json    the audit's manifest: its options, its figures, and the SHA-256 of the last manifest of the set
"""

import csv
import logging
from collections.abc import Sequence
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import NamedTuple

from dinolab.config import to_dict
from dinolab.curation.decisions import manifests
from dinolab.curation.options import AuditOptions
from dinolab.curation.review import read_decisions
from dinolab.data.storage import describe
from dinolab.errors import UserError
from dinolab.features.store import Store, fingerprint, write_manifest
from dinolab.files import beside, write_whole
from dinolab.schemas import CURATION, read_object

log = logging.getLogger(__name__)

FOLDER, LISTED, MANIFEST = "audit", "findings.csv", "audit.json"
COLUMNS = ["image", "finding", "score", "other_image", "words", "decision"]


class Kind(NamedTuple):
    """A kind of findings."""

    id: str  # as findings.csv and the page's address have it
    title: str
    meaning: str  # what the score is, and what can be done


COPY = Kind(
    "near-copy",
    "Near-copies",
    "Pairs of images of one source that show the same. The score is their cosine similarity. The command "
    "dinolab curate dedup keeps one of each group.",
)
LEAK = Kind(
    "leak",
    "Leaks between sources",
    "Pairs of images of different sources that show the same, such as a test image among the training images. The score is their "
    "cosine similarity. The command dinolab curate dedup with against= leaves out what is near a test set.",
)
OUTLIER = Kind(
    "outlier",
    "Outliers",
    "Images that are far from all others. The score is the mean distance (1 - cosine similarity) to the nearest images. Such an "
    "image may be rare and valuable, or not belong to the set.",
)
BLURRED = Kind(
    "blurred",
    "Blurred images",
    "The score is the variance of the image's Laplacian, as a share of the set's median. An image with large smooth areas has a "
    "small one, too.",
)
EMPTY = Kind(
    "nearly-empty",
    "Nearly empty images",
    "Images of one colour, or nearly so. The score is the standard deviation of the pixel values, which lie between 0 and 255, in "
    "the channel where it is largest.",
)
TINY = Kind("tiny", "Tiny images", "The score is the shorter side in pixels.")
LABEL = Kind(
    "doubtful-label",
    "Doubtful labels",
    "Images whose neighbours mostly have one other label. The score is the share of the neighbours with that label. Each of them "
    "should be looked at: the label may be wrong, or right and the image unusual.",
)
KINDS = (COPY, LEAK, OUTLIER, BLURRED, EMPTY, TINY, LABEL)  # in the order of the page


class Finding(NamedTuple):
    """One finding about an image, or about a pair."""

    row: int  # of the store
    score: float  # see the meaning of its kind
    words: str
    other: int = -1  # row of the other image; -1 without one


class Audit(NamedTuple):
    """All that was found."""

    store: Store
    images: int  # that were looked at
    recall: float  # of the search for neighbours
    found: dict[Kind, list[Finding]]  # the worst of each kind first
    leaks: dict[tuple[str, str], int]  # number of pairs by the names of the two sources
    parent: str  # SHA-256 of the last manifest of the set that it looked at

    def name(self, row: int) -> str:
        """The location of a row's image in words."""
        return describe(self.store.rows["location"][row])


def write_audit(audit: Audit, options: AuditOptions, page: bytes, page_name: str) -> Path:
    """Write an audit's files, the manifest last; returns their folder. Decisions in an earlier list of findings are kept beside it."""
    folder = audit.store.folder / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    keep_decisions(folder)
    write_findings(audit, folder / LISTED)
    write_whole(folder / page_name, page)
    counts = {kind.id: len(found) for kind, found in audit.found.items()}
    between = [{"sources": list(names), "pairs": pairs} for names, pairs in audit.leaks.items()]
    figures = {"images": audit.images, "recall": audit.recall, "found": counts, "leaks": between}
    content = {"stage": FOLDER, "options": to_dict(options), "figures": figures, "parent": audit.parent}
    write_manifest(folder / MANIFEST, {**content, "dinolab": version("dinolab")})
    return folder


def keep_decisions(folder: Path) -> None:
    """Rename a list of findings in which a person has decided anything, or that can no longer be read."""
    file = folder / LISTED
    if not file.is_file():
        return
    try:
        is_decided = any(True for _ in read_decisions(file))
    except UserError:
        is_decided = True
    if is_decided:
        places = (folder / f"decided-{number}.csv" for number in count(1))
        kept = next(place for place in places if not place.exists())
        file.rename(kept)
        log.warning("%s: its decisions are kept in %s", file, kept)


def changed_since(folder: Path) -> list[str]:
    """What has happened to a curated set since its audit: a sentence, or none where nothing has or there is no audit."""
    file = folder / FOLDER / MANIFEST
    if not file.is_file():
        return []
    parent, now = read_object(file, CURATION).get("parent"), manifests(folder)
    prints = [fingerprint(one) for one in now]
    if parent == prints[-1]:
        return []
    after = [one.stem for one in now[prints.index(parent) + 1 :]] if parent in prints else []
    change = f"{' and '.join(after)} came after it" if after else "images or stages have changed"
    return [f"{folder / FOLDER}: this audit is of the set as it was before ({change})"]


def write_findings(audit: Audit, file: Path) -> None:
    """Write a CSV with a line for each finding."""
    with beside(file) as place, place.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(COLUMNS)
        for kind, found in audit.found.items():
            writer.writerows(line(audit, kind, one) for one in found)


def line(audit: Audit, kind: Kind, one: Finding) -> Sequence[str]:
    other = audit.name(one.other) if one.other >= 0 else ""
    return [audit.name(one.row), kind.id, f"{one.score:.4f}", other, one.words, ""]
