"""A folder of image files, at any depth; its subfolders of the first level are the classes."""

import os

from dinolab.data.addresses import IMAGES, absolute
from dinolab.data.sources.kind import Count, Kind, Listing, Request
from dinolab.errors import UserError


class Folder(Kind):
    title = "a folder of images"

    def claims(self, path: str) -> bool:
        return os.path.isdir(absolute(path))

    def is_current(self, listing: Listing) -> bool:
        now = (os.stat(os.path.join(listing.root, folder)).st_mtime_ns for folder in listing.folders)
        return all(changed == before for changed, before in zip(now, listing.folders.values()))

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        root = request.local_address()
        names, folders = walk(root, count)
        if not names:
            raise UserError(f"{request.named}: no images ({' '.join(IMAGES)}) in this folder or below it")
        first = [name.split(os.sep, 1)[0] if os.sep in name else "" for name in names]
        labelled = "" not in first and len(set(first)) > 1
        why = "a labelled folder has two or more subfolders, one for each class, and no image outside them"
        return Listing(names, first if labelled else None, why, root, folders)


def walk(root: str, count: Count) -> tuple[list[str], dict[str, int]]:
    """Names of all images in and below a folder, sorted, and when each folder was last modified (ns); hidden entries are left out."""
    names: list[str] = []
    folders: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()  # a link to a folder above would never end
    todo = [""]
    while todo:
        folder = todo.pop()
        status = os.stat(os.path.join(root, folder))
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[folder] = status.st_mtime_ns  # taken before the entries: what is added meanwhile shows
        below = []
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                name = os.path.join(folder, entry.name)
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    below.append(name)
                elif entry.name.lower().endswith(IMAGES):
                    names.append(name)
                    count(len(names))
        todo += sorted(below, reverse=True)
    return sorted(names), folders


FOLDER = Folder()
