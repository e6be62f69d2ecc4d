"""Tables as cells that the page prints and sorts."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Cell(NamedTuple):
    text: str
    value: float | None = None  # what a column is sorted by
    share: float | None = None  # of the column's greatest value, drawn as a bar


class Table(NamedTuple):
    title: str
    note: str
    headings: list[str]
    rows: list[list[Cell]]
    own: int = 0  # rows on top that are the user's; the rest are published


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def side_by_side(facts: Sequence[dict[str, str]]) -> list[tuple[str, list[str]]]:
    """A row for each fact of any run, with a column for each run."""
    return [(key, [f.get(key, "") for f in facts]) for key in dict.fromkeys(key for f in facts for key in f)]
