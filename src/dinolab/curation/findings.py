"""What an audit finds: the kinds of findings, and the file that lists them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dinolab.data.storage import describe
from dinolab.features.store import Store
from dinolab.files import beside

LISTED = "findings.csv"
COLUMNS = ["image", "finding", "score", "other_image", "words"]


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

    def name(self, row: int) -> str:
        """The location of a row's image in words."""
        return describe(self.store.rows["location"][row])


def write_findings(audit: Audit, file: Path) -> None:
    """Write a CSV with a line for each finding."""
    with beside(file) as place, place.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(COLUMNS)
        for kind, found in audit.found.items():
            writer.writerows(line(audit, kind, one) for one in found)


def line(audit: Audit, kind: Kind, one: Finding) -> Sequence[str]:
    other = audit.name(one.other) if one.other >= 0 else ""
    return [audit.name(one.row), kind.id, f"{one.score:.4f}", other, one.words]
