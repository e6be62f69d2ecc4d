"""Which folder the names in a text file or CSV file are relative to."""

import os

from dinolab.data.addresses import absolute
from dinolab.data.sources.kind import Request
from dinolab.errors import UserError

FIRST = 5  # names at the head of the file, of which at least one must be a file in the folder


def find_image_folder(names: list[str], file: str, request: Request, guess: bool) -> str:
    """Find the folder of the images that a file names.

    It is the first likely folder that holds one of the first images: `request.images` if it is set, else a folder named like the
    file, or the file's own. Failing these, it is the only other folder beside the file that holds one of them.

    Args:
        names: names of the images, as the file lists them.
        file: absolute path of the file that lists them.
        guess: False looks in `request.images` or the file's own folder alone.

    Raises:
        UserError: the file lists no images, or they are in none of these folders, or in several.
    """
    if not names:
        raise UserError(f"{request.named}: the file lists no images")
    likely: list[str] = [os.path.dirname(file)]
    others: list[str] = []
    if request.images:
        likely = [absolute(request.images)]
    elif guess:
        likely, others = folders_beside(file)
    for folder in likely:
        if holds_one_of(folder, names):
            return folder
    found = [folder for folder in others if holds_one_of(folder, names)]
    if len(found) == 1:
        return found[0]
    where = f"is in several folders ({', '.join(found)})" if found else f"is not in {' or '.join(likely)}"
    way_out = "put the file beside its images"
    if request.option == "data.path":
        way_out = "set data.images to the folder of the images"
    raise UserError(f"{request.named}: {names[0]}, the first image it lists, {where}; {way_out}")


def folders_beside(file: str) -> tuple[list[str], list[str]]:
    """Likely folders of a file's images, best first, and the other folders beside it.

    Likely are those whose name the file's begins with (train/ for Training_set.csv), and the file's own folder.
    """
    own, name = os.path.split(file)
    stem = os.path.splitext(name.lower())[0]
    with os.scandir(own) as entries:
        beside = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    alike = sorted((folder for folder in beside if stem.startswith(folder.lower())), key=len, reverse=True)
    others = [os.path.join(own, folder) for folder in beside if folder not in alike]
    return [*(os.path.join(own, folder) for folder in alike), own], others


def holds_one_of(folder: str, names: list[str]) -> bool:
    """Whether one of the first names is a file in the folder. Not all need be: reading reports files that are missing."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in names[:FIRST])
