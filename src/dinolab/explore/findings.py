"""What curation has found about images, and what a person decides about them, as lists to walk through."""

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np

from dinolab.curation.decisions import finished, read_verdicts
from dinolab.curation.findings import COLUMNS as FOUND
from dinolab.curation.findings import FOLDER, LISTED
from dinolab.curation.review import FILE as REVIEW
from dinolab.data.storage import describe
from dinolab.errors import UserError
from dinolab.explore.collection import Collection
from dinolab.files import beside

log = logging.getLogger(__name__)
COLUMNS = ["image", "decision", "kind", "other"]
DECISIONS = ("keep", "drop", "")  # the last takes a decision back


def read_findings(images: Collection) -> list[dict[str, Any]]:
    """The findings of a curated set's audit, and the copies that its deduplication has left out; none of other images.

    Returns:
        For each "kind", "image" and "other" (numbers, the second may be None), "score" or None, and "words".
    """
    if images.store is None:
        return []
    return [*audited(images, images.store.folder / FOLDER / LISTED), *copies(images)]


def audited(images: Collection, file: Path) -> list[dict[str, Any]]:
    """The lines of an audit's findings.csv, without those about images that are not looked at."""
    if not file.is_file():
        return []
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        number = images.numbers
        return [
            finding(
                row["finding"], number[row["image"]], number.get(row["other_image"]), float(row["score"]), row["words"]
            )
            for row in rows
            if row["image"] in number
        ]
    except (OSError, ValueError, LookupError, TypeError, csv.Error):
        log.warning("%s: damaged (its columns are not %s); give `dinolab curate audit` again", file, ", ".join(FOUND))
        return []


def copies(images: Collection) -> list[dict[str, Any]]:
    """Each image that deduplication has left out, with the one that it is a copy of."""
    from dinolab.curation import leaks  # here, for most images need no part of curation
    from dinolab.curation.dedup import STAGE

    store = images.store
    if store is None or STAGE not in finished(store.folder):
        return []
    verdicts = read_verdicts(store, STAGE)
    number = {location: n for n, location in enumerate(images.source.paths)}
    found = []
    for n, row in enumerate(images.rows.tolist()):
        if not verdicts.kept[row] and (reason := verdicts.reason[row]):
            other, score = number.get(verdicts.of[row]), float(verdicts.similarity[row])
            kind = "leak" if reason in leaks.FIGURES.values() else "copy"
            name = images.short[other] if other is not None else Path(describe(verdicts.of[row])).name
            found.append(finding(kind, n, other, score, f"Left out by deduplication: {reason} {name}."))
    return found


def finding(kind: str, image: int, other: int | None, score: float, words: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "image": image,
        "other": other,
        "score": score if np.isfinite(score) else None,
        "words": words,
    }


class Reviews:
    """What a person has decided about images, in a CSV that is written whole after each decision.

    Args:
        images: those that are looked at.
        folder: where maps are kept; None: decisions cannot be saved, unless the images are a curated set.
    """

    def __init__(self, images: Collection, folder: Path | None) -> None:
        self.images = images
        self.file = images.store.folder / REVIEW if images.store else folder and folder / f"explore_{REVIEW}"

    def read(self) -> dict[str, dict[str, str]]:
        """The rows by the locations of their images. Raises UserError where the file has other columns."""
        if self.file is None or not self.file.is_file():
            return {}
        try:
            with self.file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
                return {row["image"]: {name: row[name] or "" for name in COLUMNS} for row in csv.DictReader(opened)}
        except (OSError, ValueError, LookupError, csv.Error) as error:
            raise UserError(
                f"{self.file}: not a list of decisions ({', '.join(COLUMNS)}); rename or remove it"
            ) from error

    def listed(self) -> list[dict[str, Any]]:
        """The decisions about images that are looked at, by number."""
        rows = ((self.images.numbers.get(location), row) for location, row in self.read().items())
        return [
            {
                "image": n,
                "decision": row["decision"],
                "kind": row["kind"],
                "other": self.images.numbers.get(row["other"]),
            }
            for n, row in rows
            if n is not None
        ]

    def save(self, decided: Any) -> dict[str, Any]:
        """Add decisions to the file, or take them back.

        Args:
            decided: [{"image": number, "decision": "keep", "drop" or ""}], each with the "kind" of the finding and the number of the
                "other" image if there is one.

        Returns:
            "saved", the number of decisions in the file, and the "file".

        Raises:
            UserError: this is no such list, or the file cannot be written.
        """
        if self.file is None:
            raise UserError("cache=none: nothing is kept, decisions neither; name a folder with cache=")
        rows = self.read()
        for one in checked(decided, len(self.images)):
            location, other = self.images.locations[one["image"]], one.get("other")
            rows.pop(location, None)
            if one["decision"]:
                named = self.images.locations[other] if other is not None else ""
                rows[location] = {
                    "image": location, "decision": one["decision"], "kind": one.get("kind") or "", "other": named,
                }  # fmt: skip
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with (
                beside(self.file) as place,
                place.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened,
            ):
                writer = csv.DictWriter(opened, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows.values())
        except OSError as error:
            raise UserError(f"{self.file}: cannot be written ({error.strerror})") from error
        return {"saved": len(rows), "file": str(self.file)}


def checked(decided: Any, images: int) -> list[dict[str, Any]]:
    """A list of decisions as the page sends it. Raises UserError where it is another thing."""

    def is_number(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < images

    right = isinstance(decided, list) and all(
        isinstance(one, dict)
        and is_number(one.get("image"))
        and one.get("decision") in DECISIONS
        and isinstance(one.get("kind", ""), str)
        and (one.get("other") is None or is_number(one["other"]))
        for one in decided
    )
    if not right:
        raise UserError('decisions: not a list of {"image": number, "decision": "keep", "drop" or ""}')
    return decided
