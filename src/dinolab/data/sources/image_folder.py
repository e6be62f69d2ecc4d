"""Which folder the names in a text file or CSV file are relative to."""

import os
from collections.abc import Callable, Iterator
from functools import partial

from dinolab.data.addresses import IMAGES, absolute
from dinolab.data.sources.kind import Request
from dinolab.errors import UserError

FIRST = 5  # names at the head of the file, of which at least one must be a file in the folder


def find_images(names: list[str], file: str, request: Request, guess: bool) -> tuple[list[str], str]:
    """Find the images that a file names.

    Their folder is the first likely one that holds one of the first images: the option `images` if it is set, else a folder named like
    the file, or the file's own. Failing these, it is the only other folder beside the file that holds one of them. Where no folder
    holds them under their names, other `spellings` are tried.

    Args:
        names: names of the images, as the file lists them.
        file: absolute path of the file that lists them.
        guess: False looks in the option `images` or the file's own folder alone.

    Returns:
        The names as the images have them, relative to the folder; and the folder.

    Raises:
        UserError: the file lists no images, or they are in none of these folders, or in several.
    """
    if not names:
        raise UserError(f"{request.named}: the file lists no images")
    likely: list[str] = [os.path.dirname(file)]
    others: list[str] = []
    if images := request.columns.images:
        likely = [absolute(images)]
    elif guess:
        likely, others = folders_beside(file)
    where = f"is not in {' or '.join(likely)}"
    for spell in spellings(names[:FIRST]):
        first = [spell(name) for name in names[:FIRST]]
        found = [folder for folder in likely if holds_one_of(folder, first)][:1]
        found = found or [folder for folder in others if holds_one_of(folder, first)]
        if len(found) == 1:
            return [spell(name) for name in names], found[0]
        if found:
            where = f"is in several folders ({', '.join(found)})"
            break
    way_out = "put the file beside its images"
    if not request.option.startswith("eval."):  # data.images is the folder of data.path alone
        way_out += f", or set {request.key('images')} to their folder"
    raise UserError(f"{request.named}: {names[0]}, the first image it lists, {where}; {way_out}")


def spellings(names: list[str]) -> Iterator[Callable[[str], str]]:
    """Ways to read names in a file: as they stand; with Windows' separators; and, without an ending (Kaggle lists ids), with each."""
    yield lambda name: name
    if any("\\" in name for name in names):
        yield lambda name: name.replace("\\", "/")
    if not any(name.lower().endswith(IMAGES) for name in names):
        for ending in IMAGES:
            yield partial(with_ending, ending=ending)
            yield partial(with_ending, ending=ending.upper())


def with_ending(name: str, ending: str) -> str:
    return name.replace("\\", "/") + ending


def folders_beside(file: str) -> tuple[list[str], list[str]]:
    """Likely folders of a file's images, best first, and the other folders beside it.

    Likely are those whose name the file's begins with (train/ for Training_set.csv), and the file's own folder.
    """
    own, name = os.path.split(file)
    stem = os.path.splitext(name.lower())[0]
    with os.scandir(own) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    beside = sorted(name for name in names if os.path.isdir(os.path.join(own, name)))  # False for a link to itself
    alike = sorted((folder for folder in beside if stem.startswith(folder.lower())), key=len, reverse=True)
    others = [os.path.join(own, folder) for folder in beside if folder not in alike]
    return [*(os.path.join(own, folder) for folder in alike), own], others


def holds_one_of(folder: str, names: list[str]) -> bool:
    """Whether one of the first names is a file in the folder. Not all need be: reading reports files that are missing."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in names[:FIRST])
