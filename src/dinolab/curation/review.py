"""The last stage of curation: a person's decisions, which stand above those of all other stages."""

import csv
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dinolab.config import to_dict
from dinolab.curation.decisions import before, undecided, write_stage
from dinolab.curation.names import Names
from dinolab.curation.options import ReviewOptions
from dinolab.data.sources.csv_file import find_separator
from dinolab.data.sources.text_file import read_text
from dinolab.errors import UserError, some
from dinolab.features.store import Store

STAGE = "review"
FILE = "review.csv"  # in the set's folder, where no other file is named
MOST_NAMED = 20  # columns in a message
IMAGE, DECISION = "image", "decision"
KIND, OTHER = ("kind", "finding"), ("other", "other_image")  # the latter names are those of an audit's findings.csv
WORDS = {"keep": True, "drop": False}
KEPT, DROPPED = "kept by a person", "left out by a person"


class Decision(NamedTuple):
    """A line of a file of decisions."""

    image: str
    keep: bool
    kind: str  # what the person looked at, such as "near-copy"; empty where the file does not say
    other: str  # the other image of a pair
    place: str  # file and line, for messages


def review(store: Store, options: ReviewOptions) -> dict[str, Any]:
    """Leave out, keep, or bring back the images that a person has decided about; writes the stage's files.

    Returns:
        Figures: "images" before and "kept" after; the number of "decisions"; how many images they have "dropped" and "brought_back";
        and the file's "sha256".

    Raises:
        UserError: the file cannot be read, names no image, or contradicts itself; or no image would be left.
    """
    file = Path(options.decisions).expanduser() if options.decisions else store.folder / FILE
    rows, verdicts = before(store, STAGE), undecided(len(store))
    verdicts.kept[rows] = True
    was_in, names = verdicts.kept.copy(), Names(store.rows["location"])
    decided: dict[int, Decision] = {}
    for one in read_decisions(file):
        try:
            row = names.row(one.image)
        except UserError as error:
            raise UserError(f"{one.place}: {error}") from error
        first = decided.setdefault(row, one)
        if one.keep != first.keep:
            raise UserError(f"{one.place}: {one.image} has another decision in {first.place}; keep it or drop it")
        if one.keep and store.rows["problem"][row]:
            raise UserError(f"{one.place}: {one.image} cannot be read, and so cannot be kept")
    for row, one in decided.items():
        verdicts.kept[row] = one.keep
        words = [KEPT if one.keep else DROPPED, f"({one.kind})" if one.kind else "", "beside" if one.other else ""]
        verdicts.reason[row] = " ".join(filter(None, words))
        verdicts.of[row] = location_of(store, names, one.other)
    figures = {
        "images": len(rows),
        "decisions": len(decided),
        "dropped": int((was_in & ~verdicts.kept).sum()),
        "brought_back": int((~was_in & verdicts.kept).sum()),
        "kept": int(verdicts.kept.sum()),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    write_stage(store, STAGE, verdicts, to_dict(options), figures)
    return figures


def read_decisions(file: Path) -> Iterator[Decision]:
    """The lines of a file that hold a decision. Raises UserError where it is no CSV file with the columns that are needed."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; name a CSV file by decisions=")
    text = read_text(str(file), str(file))
    lines = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, delimiter=find_separator(text, IMAGE))
    try:
        columns = [column or "" for column in lines.fieldnames or []]
        if missing := [name for name in (IMAGE, DECISION) if name not in columns]:
            raise UserError(
                f"{file}: no column {missing[0]!r}, only: {some(columns, MOST_NAMED, ', ') or 'none at all'}"
            )
        for line in lines:
            place, word = f"{file}, line {lines.line_num}", (line[DECISION] or "").strip()
            if not word:
                continue
            if word.lower() not in WORDS:
                raise UserError(f"{place}: decision {word!r}; write keep or drop, or leave it empty")
            kind, other = (next((line[name] for name in names if line.get(name)), "") for names in (KIND, OTHER))
            yield Decision((line[IMAGE] or "").strip(), WORDS[word.lower()], kind, other, place)
    except csv.Error as error:
        raise UserError(f"{file}: not a CSV file ({error})") from error


def location_of(store: Store, names: Names, image: str) -> str:
    """The location of the other image of a pair; the text itself for one that is not in the set, such as a test image."""
    try:
        return store.rows["location"][names.row(image)] if image else ""
    except UserError:
        return image
