"""The YAML file of a grid: a base recipe, rows of option words, evaluations, and the published figures that stand beside them."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinolab.config import SHOWN
from dinolab.errors import UserError, nearest
from dinolab.evals import EVALS
from dinolab.evals.classification import Classification
from dinolab.evals.evaluate import find
from dinolab.files import file_name
from dinolab.options import Model
from dinolab.plain_yaml import read_yaml
from dinolab.recipes import FOLDERS
from dinolab.report.published import TABLES, read_rows

FOLDER = "grids"  # of dinolab's own grids, beside the recipes
KEYS = ("title", "base", "words", "evaluations", "published", "rows")
ROW_KEYS = ("words", "published")
# the published networks that stand beside vision transformers (False) and beside convolutional networks (True), by table
NETWORKS = {"imagenet": {False: "ViT-S", True: "RN50"}}


@dataclass(frozen=True)
class Row:
    """A variant."""

    name: str
    words: tuple[str, ...] = ()  # key=value, over the base and the words of all rows
    published: dict[str, str] = field(default_factory=dict)  # the published row beside it, by column; empty for none

    @property
    def folder(self) -> str:
        return file_name(self.name)


@dataclass(frozen=True)
class Grid:
    """What a grid's file says."""

    name: str
    title: str
    base: str  # recipe; empty where the file names none
    words: tuple[str, ...]  # of all rows
    evaluations: tuple[str, ...]
    table: str  # name of a table of published figures; empty for none
    rows: tuple[Row, ...]
    each: str = ""  # how long every run trains, as the user gave it; empty where they have equally many steps


def shipped() -> list[str]:
    """Names of the grids that dinolab ships."""
    return sorted({path.stem for folder in FOLDERS for path in (folder / FOLDER).glob("*.yaml")})


def find_grid(file: str) -> Path:
    """The file itself, or a shipped grid of that name."""
    own = [folder / FOLDER / f"{file}.yaml" for folder in FOLDERS] if file == Path(file).name else []
    for path in [Path(file), *own]:
        if os.path.isfile(path):  # unlike Path.is_file, it is false for a name that is too long
            return path
    near = nearest(file, shipped())
    hint = f"did you mean {near}? " if near else ""
    if file == "plan":
        hint = "the forecast alone is the option plan=only; "
    raise UserError(f"{file[:SHOWN]}: no such grid; {hint}name a YAML file, or one of {', '.join(shipped())}")


def read_grid(file: str) -> Grid:
    """The grid in a file, or a shipped one. Raises UserError for what is no grid."""
    path = find_grid(file)
    content = read_yaml(path)
    refuse_unknown(content, KEYS, str(path))
    rows = content.get("rows")
    if not isinstance(rows, dict) or not rows:
        raise UserError(f"{path}: rows: name one row or more, each as NAME: [key=value, ...]")
    table = text(content.get("published", ""), f"{path}: published")
    if table and table not in TABLES:
        raise UserError(f"{path}: published={table}: one of {', '.join(TABLES)}")
    usual = [name for name, evaluation in EVALS.items() if evaluation.compared]
    grid = Grid(
        name=path.stem,
        title=text(content.get("title", path.stem), f"{path}: title"),
        base=text(content.get("base", ""), f"{path}: base"),
        words=texts(content.get("words", []), f"{path}: words"),
        evaluations=texts(content.get("evaluations", usual), f"{path}: evaluations"),
        table=table,
        rows=tuple(read_row(str(name), row, str(path)) for name, row in rows.items()),
    )
    check_names(grid, path)
    for row in grid.rows:
        published_rows(grid, row)
    return grid


def read_row(name: str, content: Any, path: str) -> Row:
    """A row, written as the list of its words, or as a mapping of ROW_KEYS."""
    where = f"{path}: row {name!r}"
    if not isinstance(content, dict):
        content = {"words": content or []}
    refuse_unknown(content, ROW_KEYS, where)
    published = content.get("published", {})
    if not isinstance(published, dict):
        raise UserError(f"{where}: published: name the published row by its columns, for example {{row: 1}}")
    return Row(name, texts(content.get("words", []), where), {str(key): str(value) for key, value in published.items()})


def check_names(grid: Grid, path: Path) -> None:
    """Raises UserError for rows that would share a folder, and for evaluations that do not predict a class for each image."""
    seen: dict[str, str] = {}
    for row in grid.rows:
        if row.folder in seen:
            raise UserError(
                f"{path}: the rows {seen[row.folder]!r} and {row.name!r} would share the folder {row.folder}"
            )
        seen[row.folder] = row.name
    for name in grid.evaluations:
        if not isinstance(find(name), Classification):
            raise UserError(f"{path}: evaluations: {name} predicts no class of each image, which rows are compared by")


def published_rows(grid: Grid, row: Row) -> list[dict[str, str]]:
    """The published rows that have all values that a row names; none where it names none. Raises UserError where there is no such row."""
    if not row.published or not grid.table:
        return []
    found = [one for one in read_rows(grid.table) if row.published.items() <= one.items()]
    if not found:
        raise UserError(f"row {row.name!r}: the published table {grid.table} has no row with {row.published}")
    return found


def published_row(grid: Grid, row: Row, model: Model) -> dict[str, str]:
    """The published row beside a row; empty for none. A table of several networks has the one of the model's kind, if the row names
    no other."""
    found, networks = published_rows(grid, row), NETWORKS.get(grid.table)
    if networks and "arch" not in row.published:
        found = [one for one in found if one["arch"] == networks[model.convolutional]]
    return found[0] if found else {}


def refuse_unknown(content: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            near = nearest(str(key), known)
            raise UserError(f"{where}: there is no {key}; {f'did you mean {near}?' if near else ', '.join(known)}")


def text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: takes a text")
    return value


def texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UserError(f"{where}: takes a list of texts, [key=value, ...]")
    return tuple(value)
