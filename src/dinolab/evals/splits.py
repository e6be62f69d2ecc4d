"""The split of a labelled source into training and test images: drawn once, class by class, and kept in a file.

Near-duplicates are never parted.

N images.
"""

import glob
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from dinolab.data import draws
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.features.duplicates import NEAR, find_groups
from dinolab.files import write_whole
from dinolab.schemas import HELD_OUT, read_object

log = logging.getLogger(__name__)
SHARE = 0.2  # of the images of each class
FORMAT = "dinolab split 1"


def held_out(source: Source, seed: int, out: Path | None, progress: bool = True) -> tuple[np.ndarray, str]:
    """The split of a source for a seed; one that was kept before is used.

    Args:
        out: folder that keeps the split where no file can be written beside the data.

    Returns:
        bool (N,), True for test images; and a sentence that names the share and the file.

    Raises:
        UserError: the kept split belongs to other images or labels, or is damaged, or no split can be drawn.
    """
    places = [place for place in (beside(source, seed), out / f"split-{seed}.json" if out else None) if place]
    for place in places:
        if place.is_file():
            return read(place, source), f"{SHARE:.0%} held out, {place}"
    groups = find_groups(source, progress)
    held = draw(source, groups, SHARE, seed)
    facts = {
        "format": FORMAT,
        "seed": seed,
        "share": SHARE,
        "near_duplicates": f"pHash of 64 bits, {NEAR} may differ",
        "images": len(source),
        "images_with_near_duplicates": int((np.unique(groups, return_counts=True)[1] - 1).clip(0).sum()),
        "fingerprint": source.fingerprint(),
        "test": [name for name, out_of in zip(source.names(), held) if out_of],
    }
    return held, f"{SHARE:.0%} held out, {keep(facts, places)}"


def beside(source: Source, seed: int) -> Path | None:
    """The file DIR.split-0.json beside the folder or file that the source is named after; None for patterns and remote storage."""
    path = Path(os.path.abspath(os.path.expanduser(source.name)))
    return path.with_name(f"{path.name}.split-{seed}.json") if path.exists() else None


def keep(facts: dict[str, Any], places: list[Path]) -> str:
    """Write the split to the first place that can be written; gives that place, or "not kept"."""
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, (json.dumps(facts, indent=1) + "\n").encode(errors="surrogateescape"))
        except OSError as error:
            log.warning("%s: the split cannot be kept there (%s)", place, error.strerror)
        else:
            log.info("%s: the split is kept here and used the next time", place)
            return str(place)
    return "not kept"


def read(place: Path, source: Source) -> np.ndarray:
    """The split in a file, bool (N,). Raises UserError if it is damaged, or belongs to other images."""
    pattern = f"{place.name.rpartition('split-')[0]}split-*.json"  # one for each seed
    of_all = len(list(place.parent.glob(f"{glob.escape(pattern[:-6])}*.json")))
    which = f"delete all {of_all} files {place.with_name(pattern)}" if of_all > 1 else "delete it"
    way_out = f"{which} to draw a new split, or name test images with test="
    try:
        kept = read_object(place, HELD_OUT)
        images, test = kept["fingerprint"], set(kept["test"])
    except (UserError, LookupError) as error:
        raise UserError(f"{place}: not a split of dinolab's ({error}); {way_out}") from error
    if images != source.fingerprint():
        raise UserError(
            f"{place}: the split of {kept.get('images')} images, but {source.name} has other images or labels by now "
            f"({len(source)} images); results on both cannot be compared: {way_out}"
        )
    return np.array([name in test for name in source.names()])


def draw(source: Source, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which images are held out, bool (N,): of each class about `share` and at least one image, in whole groups, never all.

    Class by class, images are visited in random order: an image's group is held out if no class with images in the group then
    loses more than its share. A warning names classes without a held-out image. Raises UserError if that is true of all classes.

    Args:
        groups: group numbers, int (N,); near-duplicates share one.
    """
    assert source.labels is not None
    labels = source.labels
    sizes = np.bincount(labels, minlength=len(source.classes))
    room = np.minimum(np.maximum(1, np.round(share * sizes)), sizes - 1).astype(int)  # a single image leaves none
    members: dict[int, list[int]] = {}
    for image, number in enumerate(groups.tolist()):
        members.setdefault(number, []).append(image)
    held = np.zeros(len(source), bool)
    for label in range(len(source.classes)):
        for image in draws.rng(seed, draws.SPLIT, label).permutation(np.flatnonzero(labels == label)):
            if room[label] < 1:
                break
            group = members[groups[image]]
            takes = np.bincount(labels[group], minlength=len(room)) if len(group) > 1 else None
            if not held[image] and (takes is None or (takes <= room).all()):
                held[group] = True
                room[label] -= 1 if takes is None else 0
                room -= 0 if takes is None else takes
    without = [name for label, name in enumerate(source.classes) if not held[labels == label].any()]
    if not held.any():
        raise UserError(
            f"{source.name}: no images can be held out: each class has a single image or only near-duplicates; name test images, test=DIR"
        )
    if without:
        log.warning(
            "%s: no image of %s is held out: there is a single one, or only near-duplicates",
            source.name,
            ", ".join(without),
        )
    return held
