"""What planted.py counts: copies and test photos that a curated set found in a heap, by the truth of what was planted."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from dinolab.curation.components import join
from dinolab.curation.copies import CHAIN
from dinolab.curation.leaks import FIGURES as LEAKS
from dinolab.curation.leaks import NEAR as LEAK
from dinolab.data.decode import read_image

SHOWN, ACROSS, SIDE = 30, 5, 128  # pairs on a sheet, pairs in a row of it, pixels of a picture
BLOCK = 10  # photos in turn belong to the same half, so that each half has all kinds of test photos


class Truth:
    """What each image of the heap is, by its file. N images.

    Attributes:
        what: "photo", "copy", "leak" or "frame", for each image (N,).
        origin: the number of the photo that it shows, or of the clip, int (N,).
        kind: of a copy or a leak, (N,).
        half: of each image 0 or 1, int (N,); -1 for frames.
    """

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.files = [row["file"] for row in rows]
        self.what, self.kind, of = (np.array([row[name] for row in rows]) for name in ("is", "kind", "of"))
        names = {name: number for number, name in enumerate(dict.fromkeys(of))}  # in their order: photos, clips, tests
        self.origin = np.array([names[name] for name in of])
        self.half = np.where(self.what == "frame", -1, self.origin // BLOCK % 2)

    def counts(self) -> dict[str, Any]:
        kinds = {what: dict(sorted(Counter(self.kind[self.what == what]).items())) for what in ("copy", "leak")}
        return {
            "images": len(self.files),
            **dict(Counter(self.what.tolist())),
            "photos_with_copies": len(np.unique(self.origin[self.what == "copy"])),
            "clips": len(np.unique(self.origin[self.what == "frame"])),
            "kinds": {what: {str(name): int(count) for name, count in found.items()} for what, found in kinds.items()},
        }

    def decisions(self, folder: Path) -> dict[str, np.ndarray]:
        """The decisions of a curated set, in the order of the files; "row" is that of the image named in "of", -1 without one."""
        table = pq.read_table(folder / "decisions.parquet").to_pydict()
        place = {location: row for row, location in enumerate(table["location"])}
        order = [place[file] for file in self.files]
        found = {name: np.array(values, object)[order] for name, values in table.items()}
        number = {file: row for row, file in enumerate(self.files)}
        return {**found, "row": np.array([number.get(of, -1) for of in found["of"]])}


def score_copies(folder: Path, truth: Truth, halves: bool = False) -> dict[str, Any]:
    """How well the groups of copies agree with the truth; with `halves`, for the photos of each half by themselves."""
    found = truth.decisions(folder)
    joined = np.flatnonzero(found["row"] >= 0)
    groups = join(len(truth.files), np.stack([joined, found["row"][joined]], 1))
    kept = found["kept"].astype(bool)
    if halves:
        parts = [score_part(truth, groups, kept, truth.half == half) for half in (0, 1)]
        return {"kept": int(kept.sum()), "halves": parts}
    whole = score_part(truth, groups, kept, np.ones(len(groups), bool))
    return {"kept": int(kept.sum()), "by_reason": dict(Counter(found["reason"].tolist())), **whole}


def score_part(truth: Truth, groups: np.ndarray, kept: np.ndarray, part: np.ndarray) -> dict[str, Any]:
    """Figures of the images in `part`, bool (N,), by their groups, int (N,)."""
    of_photo = truth.what != "frame"
    in_groups = pairs(groups[part])
    together = pairs(groups[part & of_photo], truth.origin[part & of_photo])
    of_clips = pairs(groups[part & ~of_photo], truth.origin[part & ~of_photo])
    planted = pairs(truth.origin[part & of_photo])
    original = {truth.origin[row]: row for row in np.flatnonzero(truth.what == "photo")}
    kinds = {}
    for kind in dict.fromkeys(truth.kind[truth.what == "copy"]):
        rows = np.flatnonzero(part & (truth.what == "copy") & (truth.kind == kind))
        hits = sum(groups[row] == groups[original[truth.origin[row]]] for row in rows)
        kinds[str(kind)] = {"found": int(hits), "of": len(rows)}
    photographs = np.unique(truth.origin[part & of_photo])
    copied = np.unique(truth.origin[truth.what == "copy"])
    single = part & of_photo & ~np.isin(truth.origin, copied)
    return {
        "kinds": kinds,
        "recall_of_pairs": together / max(planted, 1),
        "precision_of_pairs": together / max(in_groups - of_clips, 1),
        "pairs": {
            "planted": planted,
            "planted_and_found": together,
            "found_of_one_clip": of_clips,
            "found_others": in_groups - together - of_clips,
        },
        "single_photographs": int(single.sum()),
        "single_photographs_in": int((single & kept).sum()),
        "photographs": len(photographs),
        "photographs_lost": len(np.setdiff1d(photographs, truth.origin[kept])),
        "in": int((part & kept).sum()),
        "frames_in": int((part & kept & ~of_photo).sum()),
    }


def pairs(*labels: np.ndarray) -> int:
    """How many pairs of images agree in all labels, each int (n,)."""
    if not len(labels[0]):
        return 0
    counts = np.unique(np.stack(labels), axis=1, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def score_leaks(folder: Path, truth: Truth, halves: bool = False) -> dict[str, Any]:
    """Which hidden test photos are out, and which other photos are out as leaks; with `halves`, for the photos of each half."""
    found = truth.decisions(folder)
    kept = found["kept"].astype(bool)
    taken = np.isin(found["reason"], list(LEAKS.values()))
    parts = [truth.half == half for half in (0, 1)] if halves else [np.ones(len(kept), bool)]
    scores = [leaks_of_part(truth, kept, taken, part) for part in parts]
    return {"kept": int(kept.sum()), "halves": scores} if halves else {"kept": int(kept.sum()), **scores[0]}


def leaks_of_part(truth: Truth, kept: np.ndarray, taken: np.ndarray, part: np.ndarray) -> dict[str, Any]:
    kinds = {}
    for kind in dict.fromkeys(truth.kind[truth.what == "leak"]):
        rows = part & (truth.what == "leak") & (truth.kind == kind)
        kinds[str(kind)] = {"found": int((rows & ~kept).sum()), "of": int(rows.sum())}
    others = part & np.isin(truth.what, ("photo", "copy"))
    return {
        "kinds": kinds,
        "found": sum(row["found"] for row in kinds.values()),
        "of": sum(row["of"] for row in kinds.values()),
        "photographs": len(np.unique(truth.origin[others])),
        "photographs_touched": len(np.unique(truth.origin[others & taken])),
        "images_taken": int((part & taken).sum()),
        "images_taken_that_are_leaks": int((part & taken & (truth.what == "leak")).sum()),
        "frames_taken": int((part & taken & (truth.what == "frame")).sum()),
    }


def draw_sheet(folder: Path, truth: Truth, file: Path, leaks: bool = False) -> None:
    """Draw pairs that were found by their likeness and not planted, at most one of each photo, and list them in a CSV beside.

    Args:
        leaks: pairs with test photos, in place of pairs within the heap.
    """
    found, rng = truth.decisions(folder), np.random.default_rng(0)
    others = np.flatnonzero(is_false_leak(found, truth) if leaks else is_false_copy(found, truth))
    chosen: dict[int, int] = {}
    for row in rng.permutation(others):
        chosen.setdefault(int(truth.origin[row]), int(row))
    rows = list(chosen.values())[:SHOWN]
    sheet = np.full((max(1, -(-len(rows) // ACROSS)) * (SIDE + 16), ACROSS * (2 * SIDE + 12), 3), 255, np.uint8)
    for number, row in enumerate(rows):
        top, left = number // ACROSS * (SIDE + 16), number % ACROSS * (2 * SIDE + 12)
        for place, path in enumerate((truth.files[row], found["of"][row])):
            sheet[top : top + SIDE, left + place * SIDE :][:, :SIDE] = cv2.resize(read_image(path), (SIDE, SIDE))
        words = f"{number + 1}: {found['similarity'][row]:.2f}"
        cv2.putText(sheet, words, (left, top + SIDE + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0))
    cv2.imwrite(str(file), sheet[..., ::-1])
    with file.with_suffix(".csv").open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["number", "file", "of", "reason", "similarity", f"all pairs of this kind: {len(chosen)}"])
        for number, row in enumerate(rows, 1):
            writer.writerow([number, truth.files[row], *(found[name][row] for name in ("of", "reason", "similarity"))])


def is_false_copy(found: dict[str, np.ndarray], truth: Truth) -> np.ndarray:
    """Images that are out as copies of an image of another photo or clip, directly and not by a chain, bool (N,)."""
    return (found["row"] >= 0) & (truth.origin != truth.origin[found["row"]]) & (found["reason"] != CHAIN)


def is_false_leak(found: dict[str, np.ndarray], truth: Truth) -> np.ndarray:
    """Images that are out as near a test photo and show none, bool (N,)."""
    return (found["reason"] == LEAK) & (truth.what != "leak")
