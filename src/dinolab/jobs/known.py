"""Human Action Recognition as it was published (DPhi's Data Sprint 76; Kaggle), and how a copy differs from it."""

import hashlib
from collections import Counter
from pathlib import Path

from dinolab.data.types import Source
from dinolab.errors import some

CLASSES = (
    "calling", "clapping", "cycling", "dancing", "drinking", "eating", "fighting", "hugging", "laughing",
    "listening_to_music", "running", "sitting", "sleeping", "texting", "using_laptop",
)  # fmt: skip
LABELLED = 840  # images of each class
UNLABELLED = 5_400
NAMED = 3  # missing or other files that a sentence names

SHA256 = {  # of some labelled images: the first sixteen digits
    "Image_6.jpg": "67c796efd8192416", "Image_30.jpg": "cfa937316778acf3", "Image_190.jpg": "b2c83794e1b0ae24",
    "Image_266.jpg": "fea6eb99d8bb1169", "Image_584.jpg": "99668801ca7bbb4a", "Image_1264.jpg": "019eeadda2abe3ce",
    "Image_1977.jpg": "8517c04391f37c93", "Image_4310.jpg": "ac3d163c0ee6487c", "Image_5277.jpg": "428d7292c409a9ed",
    "Image_6343.jpg": "9206956774f38f1f", "Image_6591.jpg": "d07bf1fdb1beaecf", "Image_9068.jpg": "3205761b06efbe6a",
    "Image_10396.jpg": "8241023735dc0836", "Image_11326.jpg": "6f3c307900d3cda9",
}  # fmt: skip


def differences(labelled: list[Source], unlabelled: int) -> list[str]:
    """A sentence for each way in which these images differ from the published ones: classes, numbers, contents."""
    counts = Counter(
        source.classes[label] for source in labelled for label in (source.labels if source.labels is not None else ())
    )
    found = []
    if strange := sorted(counts.keys() - set(CLASSES)):
        found.append(f"classes that the published set does not have: {some(strange, NAMED)}")
    if missing := sorted(set(CLASSES) - counts.keys()):
        found.append(f"classes of the published set that are missing: {some(missing, NAMED)}")
    total = sum(counts.values())
    if total != LABELLED * len(CLASSES):
        found.append(f"{total:,} labelled images instead of {LABELLED * len(CLASSES):,}")
    by_class = {count for name, count in counts.items() if name in CLASSES}
    if by_class - {LABELLED}:
        spread = f"{min(by_class):,}" + (f" to {max(by_class):,}" if len(by_class) > 1 else "")
        found.append(f"{spread} labelled images of a class instead of {LABELLED:,}")
    if unlabelled != UNLABELLED:
        found.append(f"{unlabelled:,} unlabelled images instead of {UNLABELLED:,}")
    files = {name: path for source in labelled for path in source.paths if (name := Path(path).name) in SHA256}
    others = [name for name, path in files.items() if digest(path) != SHA256[name]]
    if others:
        found.append(
            f"{len(others)} of {len(files)} images with a published checksum have other contents: {some(others, NAMED)}"
        )
    if not files:
        found.append("no image has the name of one whose checksum is known")
    return found


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
