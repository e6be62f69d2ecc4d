"""Originals and their copies: Copydays by its own layout, any folder of each, or copies that are made of any images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dinolab.data import draws
from dinolab.data.sources import open_source, take
from dinolab.data.types import Source
from dinolab.errors import UserError, some
from dinolab.evals.contract import Context, EvaluationOptions, Given
from dinolab.evals.copies_made import KINDS, MadeCopies
from dinolab.features.views import Change
from dinolab.fields import option
from dinolab.options import Columns

STRONG, ALL = "strong", "all"  # names of blocks
COPYDAYS, IMAGES = "Copydays", 157  # a folder with so many originals is Copydays itself
LETTERS = 4  # leading characters of a file's name that a copy shares with its original, in Copydays
NAMED = 3  # copies that a message names


class Block(NamedTuple):
    """Copies of one kind."""

    name: str
    copies: Source
    original: np.ndarray  # position of each copy's original, int (M,)
    change: Change | None = None  # what makes the copies of the images


@dataclass
class CopiedImages:
    """Originals, blocks of copies, and what else there is."""

    name: str
    originals: Source
    blocks: list[Block]
    distractors: list[Source]
    whitening: Source | None

    @property
    def sources(self) -> list[Source]:
        further = [] if self.whitening is None else [self.whitening]
        return [self.originals, *(block.copies for block in self.blocks), *self.distractors, *further]


class OriginalsAndCopies:
    """Images, copies of them, images that are neither, and images to learn a whitening on."""

    @dataclass
    class Options(Columns, EvaluationOptions):
        """Options that name the images."""

        data: str = option("", "originals: Copydays' folder, or images as data.path takes them", required=True)
        copies: str = option("", "copies, named after their originals (empty: those of Copydays, else made of data)")
        made: int = option(200, "images of data of which copies are made; the others are distractors", 1, 1 << 30)
        distractors: list[str] = option([], "further images to search among")
        whitening: str = option("", "images to learn the PCA whitening on; none of the others (empty: no whitening)")

    @staticmethod
    def open(options: "OriginalsAndCopies.Options", given: Given, context: Context) -> CopiedImages:
        """Raises UserError: no such images, or copies without an original."""
        if not options.data:
            raise UserError("data is not set: name Copydays' folder, or images")
        further = [open_source(name, options, option="distractors") for name in dict.fromkeys(options.distractors)]
        whitening = open_source(options.whitening, options, option="whitening") if options.whitening else None
        if options.copies:
            originals = open_source(options.data, options, option="data")
            copies = open_source(options.copies, options, option="copies")
            blocks, name = match_names(originals, copies, options.copies), copies.name
        elif (Path(options.data) / "original").is_dir():
            originals, blocks = copydays(Path(options.data), options)
            name = COPYDAYS if len(originals) == IMAGES else options.data
        else:
            source = open_source(options.data, options, option="data")
            originals, others = draw(source, options.made, options.seed)
            further = [*([others] if len(others) else []), *further]
            blocks, name = [make(kind, originals, options.seed) for kind in KINDS], f"copies of {source.name}"
        return CopiedImages(name, originals, blocks, further, whitening)


def copydays(folder: Path, columns: Columns) -> tuple[Source, list[Block]]:
    """The originals in original/, and a block for every other folder that holds images, such as strong and jpegqual/3.

    Raises UserError: copies whose first four characters are those of no original, or no copies.
    """
    originals = open_source(str(folder / "original"), columns, option="data")
    number = {stem(name)[:LETTERS]: at for at, name in enumerate(originals.names())}
    if len(number) < len(originals):
        raise UserError(f"data={folder}: two originals begin with the same {LETTERS} characters")
    places = sorted(place for place in folder.rglob("*") if place.is_dir() and holds_files(place))
    blocks = []
    for place in places:
        if folder / "original" in (place, *place.parents):
            continue
        copies = open_source(str(place), columns, option="data")
        found = [number.get(stem(name)[:LETTERS], -1) for name in copies.names()]
        blocks.append(Block(place.relative_to(folder).as_posix(), copies, checked(found, copies, f"data={place}")))
    if not blocks:
        raise UserError(
            f"data={folder}: no folder of copies beside original/; Copydays has strong/, jpegqual/ and crops/"
        )
    return originals, blocks


def holds_files(folder: Path) -> bool:
    return any(one.is_file() for one in folder.iterdir())


def stem(name: str) -> str:
    return Path(name).stem


def checked(found: Sequence[int], copies: Source, named: str) -> np.ndarray:
    """Positions of originals, int (M,). Raises UserError where a copy has none."""
    names = copies.names()
    without = [names[i] for i, at in enumerate(found) if at < 0]
    if without:
        raise UserError(
            f"{named}: {len(without)} of {len(copies)} copies have no original: {some(without, NAMED, ', ')}; "
            "a copy begins with its original's name, or lies in a folder of that name"
        )
    return np.array(found)


def match_names(originals: Source, copies: Source, path: str) -> list[Block]:
    """Copies with their originals by name, a block for each folder of the first level that is not named after an original.

    Raises UserError: two originals have one name, or a copy has no original.
    """
    number = {stem(name): at for at, name in enumerate(originals.names())}
    if len(number) < len(originals):
        raise UserError(f"{originals.name}: two originals have the same name; copies could not be told apart")
    names = copies.names()
    found = checked([original_of(name, number) for name in names], copies, f"copies={path}")
    folders = [name.split("/")[0] if "/" in name else ALL for name in names]
    kinds = [ALL if folder in number else folder for folder in folders]
    return [
        Block(kind, take(copies, rows), found[rows])
        for kind in dict.fromkeys(kinds)
        for rows in [np.flatnonzero(np.array(kinds) == kind)]
    ]


def original_of(name: str, number: dict[str, int]) -> int:
    """The number of the original of a copy of this name; -1 if there is none.

    It is that of a folder that the copy lies in, or the longest one that the copy's name begins with, up to its end or up to a
    character that is no letter or digit.
    """
    *folders, own = Path(name).with_suffix("").parts
    inner = [number[folder] for folder in reversed(folders) if folder in number]
    beginnings = (own[:end] for end in range(len(own), 0, -1) if end == len(own) or not own[end].isalnum())
    return next((at for at in (*inner, *(number.get(one, -1) for one in beginnings)) if at >= 0), -1)


def draw(source: Source, number: int, seed: int) -> tuple[Source, Source]:
    """So many images at random to make copies of, and the others."""
    chosen = np.zeros(len(source), bool)
    generator = draws.rng(seed, draws.COPIES, 0)
    chosen[generator.choice(len(source), min(number, len(source)), replace=False)] = True
    return take(source, np.flatnonzero(chosen)), take(source, np.flatnonzero(~chosen))


def make(kind: str, originals: Source, seed: int) -> Block:
    """Copies of one kind, one of each original; they are made when they are read."""
    copies = replace(originals, name=f"{kind} of {originals.name}", labels=None)
    return Block(kind, copies, np.arange(len(originals)), MadeCopies(kind, seed))
