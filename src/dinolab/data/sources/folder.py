"""A folder of image files, at any depth; its subfolders of the first level are the classes."""

import logging
import os

from dinolab.data.addresses import IMAGES, absolute
from dinolab.data.sources.kind import Count, Kind, Listing, Request
from dinolab.data.sources.walk import in_words, walk
from dinolab.errors import UserError, some

SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}
PARTS = {"images", "image", "imgs", "img", "jpegimages"}  # folders of images, beside which the following hold no photos
TARGETS = {
    "masks",
    "mask",
    "labels",
    "annotations",
    "segmentation",
    "segmentations",
    "segmentationclass",
    "depth",
    "gt",
}

log = logging.getLogger(__name__)


class Folder(Kind):
    title = "a folder of images"

    def claims(self, path: str) -> bool:
        return os.path.isdir(absolute(path))

    def is_current(self, listing: Listing) -> bool:
        now = (os.stat(os.path.join(listing.root, folder)).st_mtime_ns for folder in listing.folders)
        return all(changed == before for changed, before in zip(now, listing.folders.values()))

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        root = request.local_address()
        names, folders, left_out = walk(root, count)
        without = f"; left out: {in_words(left_out)}" if left_out else ""
        if not names:
            raise UserError(f"{request.named}: no images ({' '.join(IMAGES)}) in this folder or below it{without}")
        if left_out:
            log.warning("%s: %s images%s", request.named, f"{len(names):,}", without)
        first = [name.split(os.sep, 1)[0] if os.sep in name else "" for name in names]
        classes = sorted({*first} - {""})
        refuse_parts(request, classes)
        labelled = "" not in first and len(classes) > 1
        return Listing(names, first if labelled else None, why_unlabelled(names, first, classes), root, folders)


def why_unlabelled(names: list[str], first: list[str], classes: list[str]) -> str:
    """Why a folder has no labels, if it has none.

    Args:
        names: of the images.
        first: the subfolder of the first level that each image is in, "" for none.
        classes: these subfolders.
    """
    if "" in first and len(classes) > 1:
        count = first.count("")
        stray = names[first.index("")] if count == 1 else f"{names[first.index('')]} and {count - 1:,} more images"
        where = f"beside the class folders {some(classes, 3, ', ')}"
        return f"{stray} lie{'s' if count == 1 else ''} {where}; move what lies there away, or into a class"
    return "a labelled folder has two or more subfolders, one for each class, and no image outside them"


def refuse_parts(request: Request, classes: list[str]) -> None:
    """Raises UserError where the subfolders are not classes, but splits of a set, or images and what belongs to them."""
    lower = {name.lower(): name for name in classes}
    images = (lower.keys() & SPLITS) or (lower.keys() & PARTS)
    if len(lower) > 1 and images and lower.keys() <= SPLITS | PARTS | TARGETS:
        best = lower[next((name for name in ("train", "training") if name in images), min(images))]
        raise UserError(
            f"{request.named}: its folders {', '.join(classes)} are parts of a set and not classes; name one of them, "
            f"{request.option}={os.path.join(request.path, best)} (or a text file that lists images of several)"
        )


FOLDER = Folder()
