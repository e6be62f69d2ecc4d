"""A job's ways to a network: the recommendation, the table, and accuracy over the number of labels."""

from typing import Any

from dinolab.report.comparison import leading_number
from dinolab.report.pictures import Picture, data_uri
from dinolab.report.run import Run, read_json
from dinolab.report.sections.section import Page
from dinolab.report.tables import Cell, Table
from dinolab.schemas import Schema

LINES = [[str]]
WAYS: Schema = {
    "recommendation": [str],
    "notes": [str],
    "take": str,
    "table": LINES,
    "curves": LINES,
}  # figures.json of a job


def build(page: Page) -> dict[str, Any] | None:
    """None leaves the section out: only some jobs go several ways."""
    parts = [{"label": view.label, **of_run(view.run)} for view in page.views]
    return {"parts": parts} if any(part["table"] for part in parts) else None


def of_run(run: Run) -> dict[str, Any]:
    found = read_json(run.folder.figures, run.problems, WAYS)
    drawn = run.folder.learning_curves
    curves = Picture(data_uri(drawn.read_bytes(), "image/png"), "Accuracy over labels", "") if drawn.is_file() else None
    return {
        "recommendation": found.get("recommendation", []),
        "table": as_table("Ways to a network", found["table"]) if found.get("table") else None,
        "learning": as_table("Accuracy over labels, %", found["curves"]) if found.get("curves") else None,
        "notes": found.get("notes", []),
        "curves": curves,
    }


def as_table(title: str, lines: list[list[str]]) -> Table:
    headings, *rows = lines
    return Table(
        title,
        "",
        headings,
        [[Cell(row[0]), *(Cell(text, leading_number(text.lstrip("+"))) for text in row[1:])] for row in rows],
    )
