"""The parts of an evaluation's result, such as classes or clips, as a table, and the pictures that the evaluation drew."""

from pathlib import Path
from typing import NamedTuple

from dinolab.data.decode import BrokenImage, read_image
from dinolab.report.evaluated import Evaluated
from dinolab.report.pictures import Grid, Picture, picture
from dinolab.report.run import Run
from dinolab.report.tables import Cell, Table
from dinolab.rundir import PICTURES

MOST, SIDE = 8, 900  # pictures of one result, and their longer side in pixels, at most


class Details(NamedTuple):
    """What the page shows of one result beside its row in the table."""

    table: Table | None
    pictures: Grid | None


def details(run: Run, photos: bool) -> list[Details]:
    """The details of each result that has any; pictures only with `photos`."""
    titled = ((named(run, one), one) for one in run.results)
    found = (Details(parts(title, one), pictures(title, one) if photos else None) for title, one in titled)
    return [one for one in found if one.table or one.pictures]


def named(run: Run, evaluated: Evaluated) -> str:
    return evaluated.title if run.is_own(evaluated) else f"{evaluated.title}, {evaluated.encoder}"


def parts(title: str, evaluated: Evaluated) -> Table | None:
    """A row for each part and a column for each of its figures."""
    found = evaluated.result.parts
    keys = list(dict.fromkeys(key for values in found.values() for key in values))
    figures = [evaluated.declared(key) for key in keys]
    rows = [
        [Cell(name), *(Cell(f.text(values[f.key]), values[f.key]) if f.key in values else Cell("") for f in figures)]
        for name, values in found.items()
    ]
    return Table(f"{title}: parts", "", ["part", *(f.title for f in figures)], rows) if rows else None


def pictures(title: str, evaluated: Evaluated) -> Grid | None:
    files = sorted((evaluated.folder / PICTURES).glob("*.png"))[:MOST]
    shown = [made for made in map(read, files) if made]
    return Grid(f"{title}: pictures", "", [shown], flows=True) if shown else None


def read(file: Path) -> Picture | None:
    try:
        return picture(read_image(str(file)), file.stem, file.stem, side=SIDE)
    except BrokenImage:
        return None
