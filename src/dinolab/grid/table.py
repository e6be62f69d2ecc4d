"""The findings of a grid as Markdown, CSV, JSON and a page."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from dinolab.errors import mask
from dinolab.evals.contract import Figure
from dinolab.evals.evaluate import find
from dinolab.evals.results import write_csv
from dinolab.files import write_whole
from dinolab.grid.findings import Findings, Found, Interval, test_images, unequal
from dinolab.grid.read import Grid
from dinolab.machine import environment
from dinolab.report.page import environment as page_environment
from dinolab.report.page import whole_page
from dinolab.report.published import TABLES
from dinolab.report.tables import Cell, Table

NAME = "grid"  # of the files
CSV_COLUMNS = [
    "row", "evaluation", "seeds", "mean", "low", "high", "std", "difference", "difference_low", "difference_high", "published",
    "published_network", "steps", "images", "images_per_s", "peak_memory", "cpu_seconds", "remarks",
]  # fmt: skip


class PageSection(NamedTuple):
    id: str
    title: str


def write_tables(grid: Grid, findings: Sequence[Findings], base: str, words: Sequence[str], out: Path) -> list[Path]:
    """Write grid.md, grid.csv, grid.json and grid.html.

    Args:
        base: the recipe.
        words: the user's, which all rows have.
        out: folder that exists.
    """
    tables = [result_table(grid, findings), costs_table(findings), options_table(grid, base, words)]
    notes = result_notes(grid, findings)
    files = [out / f"{NAME}.{ending}" for ending in ("md", "csv", "json", "html")]
    contents = [
        markdown(grid.title, tables, notes),
        None,
        json.dumps(as_json(grid, findings, base, words), indent=2, default=str) + "\n",
        page(grid, tables, notes),
    ]
    for file, content in zip(files, contents):
        if content is None:
            write_csv(file, CSV_COLUMNS, csv_rows(findings))
        else:
            write_whole(file, mask(content).encode(errors="backslashreplace"))
    return files


def result_table(grid: Grid, findings: Sequence[Findings]) -> Table:
    """A row for each variant: for each evaluation its figure, the difference to the first row, and the published figure."""
    headings, rows = ["row"], [[Cell(one.row.name)] for one in findings]
    networks = " / ".join(dict.fromkeys(filter(None, (one.published_network for one in findings))))
    is_published = {name: any(one.results[name].published is not None for one in findings) for name in grid.evaluations}
    for name in grid.evaluations:
        figure = find(name).main
        headings += [f"{find(name).title}, {figure.unit}", f"to {grid.rows[0].name}"]
        headings += [f"published, {networks}" if networks else "published"] if is_published[name] else []
        first = findings[0].results[name].published
        for cells, one in zip(rows, findings):
            found = one.results[name]
            cells += [figure_cell(figure, found), difference_cell(figure, found)]
            cells += (
                [published_cell(found.published, None if one is findings[0] else first)] if is_published[name] else []
            )
    headings.append("remarks")
    for cells, one in zip(rows, findings):
        cells.append(Cell("; ".join(one.remarks)))
    return Table("Result", "", headings, rows)


def costs_table(findings: Sequence[Findings]) -> Table:
    """What a run of each variant has cost."""
    rows = []
    for one in findings:
        memory = one.peak_memory / 1e9 if one.peak_memory else None
        figures = [
            (one.steps, ",.0f"),
            (one.images, ",.0f"),
            (one.images_per_s, ",.0f"),
            (memory, ".2f"),
            (one.cpu_seconds, ",.0f"),
        ]
        rows.append([Cell(one.row.name), *(number(value, how) for value, how in figures)])
    note = (
        "Of one training, without evaluations. Images: with repetitions. Images/s: the median of a run's log. Memory: the peak of the "
        "process, or on a GPU of its tensors there. CPU-seconds: with the processes that load the images."
    )
    return Table("Costs", note, ["row", "steps", "images", "images/s", "memory, GB", "CPU-seconds"], rows)


def figure_cell(figure: Figure, found: Found) -> Cell:
    """76.8 (74.2 to 79.4) ± 0.8"""
    if found.mean is None:
        return Cell("")
    deviation = f" ± {figure.number(found.std)}" if found.std is not None else ""
    return Cell(f"{figure.number(found.mean)}{between(figure, found.interval)}{deviation}", found.mean)


def difference_cell(figure: Figure, found: Found) -> Cell:
    """+1.2 (-0.3 to +2.7)"""
    if found.difference is None:
        return Cell("")
    return Cell(
        f"{signed(figure, found.difference)}{between(figure, found.difference_interval, sign=True)}", found.difference
    )


def published_cell(value: float | None, first: float | None) -> Cell:
    """67.9 (-4.9), with the difference to the published figure of the first row."""
    if value is None:
        return Cell("")
    return Cell(f"{value:.1f}" + (f" ({value - first:+.1f})" if first is not None else ""), value)


def between(figure: Figure, interval: Interval | None, sign: bool = False) -> str:
    ends = [signed(figure, end) if sign else figure.number(end) for end in interval or ()]
    return f" ({' to '.join(ends)})" if ends else ""


def signed(figure: Figure, value: float) -> str:
    return f"{'+' if value > 0 else ''}{figure.number(value)}"


def number(value: float | None, how: str) -> Cell:
    return Cell("") if value is None else Cell(format(value, how), value)


def result_notes(grid: Grid, findings: Sequence[Findings]) -> list[str]:
    """Sentences that explain the table."""
    first, about = grid.rows[0].name, TABLES.get(grid.table)
    seeds = max((len(found.values) for one in findings for found in one.results.values()), default=0)
    over_seeds = "Figures are means over the seeds, and ± is the standard deviation over them."
    notes = [
        f"In brackets: the 95 % bootstrap interval over {test_images(findings):,} test images, the same for all rows.",
        over_seeds if seeds > 1 else "There is one seed, so the table does not tell how much another one would differ.",
        f"The differences to {first} are paired: the same test images, the same seeds. Their intervals cover the choice of the test "
        "images, not how other seeds would differ.",
        unequal(findings, grid.each),
    ]
    if about and any(row.published for row in grid.rows):
        network = ", with the network that the heading names" if any(one.published_network for one in findings) else ""
        notes.append(
            f"Published: {about.title} ({about.source}), measured on other images{network}. In brackets: the difference to the "
            f"published {first}."
        )
    meanings = {name: meaning for one in findings for name, meaning in one.alarms.items()}
    return list(filter(None, [*notes, *(f'"{name}": {meaning}.' for name, meaning in meanings.items())]))


def options_table(grid: Grid, base: str, words: Sequence[str]) -> Table:
    """The options of each row. Of a word that is given twice, the last one counts."""
    shared = {word.partition("=")[0]: word for word in (*grid.words, *words)}
    rows = [("all rows", [*filter(None, [base]), *shared.values()]), *((row.name, row.words) for row in grid.rows)]
    return Table("Options", "", ["row", "options"], [[Cell(name), Cell(shlex.join(of))] for name, of in rows])


def markdown(title: str, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """The tables under their headings, the notes below the first."""
    parts = [f"# {title}\n"]
    for table in tables:
        explained = notes if table is tables[0] else [table.note] if table.note else []
        parts.append(f"## {table.title}\n\n{markdown_table(table)}")
        parts += ["".join(f"- {note}\n" for note in explained)] if explained else []
    return "\n".join(parts)


def markdown_table(table: Table) -> str:
    cells = [table.headings, ["---"] * len(table.headings), *([cell.text for cell in row] for row in table.rows)]
    return "".join(f"| {' | '.join(text.replace('|', '&#124;') for text in line)} |\n" for line in cells)


def csv_rows(findings: Sequence[Findings]) -> list[list[str]]:
    """A line for each row and evaluation, in the order of CSV_COLUMNS; shares from 0 to 1."""
    rows = []
    for one in findings:
        about = [one.published_network, one.steps, one.images, one.images_per_s, one.peak_memory, one.cpu_seconds]
        for name, found in one.results.items():
            low_high, differences = found.interval or (None, None), found.difference_interval or (None, None)
            figures = [found.mean, *low_high, found.std, found.difference, *differences, found.published]
            values: list[Any] = [
                one.row.name,
                name,
                " ".join(map(str, found.values)),
                *figures,
                *about,
                "; ".join(one.remarks),
            ]
            rows.append(["" if value is None else str(value) for value in values])
    return rows


def as_json(grid: Grid, findings: Sequence[Findings], base: str, words: Sequence[str]) -> dict[str, Any]:
    rows = [asdict(one) | {"row": one.row.name, "words": one.row.words} for one in findings]
    settings = {"grid": grid.name, "title": grid.title, "base": base, "words": [*grid.words, *words], "each": grid.each}
    return settings | {"published": grid.table, "rows": rows, "environment": environment()}


def page(grid: Grid, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """The tables as one HTML file that needs no other file and no network."""
    templates = page_environment()
    write = templates.get_template("parts.html").module.table  # type: ignore[attr-defined]
    explained = Markup("").join(Markup('<p class="quiet">{}</p>\n').format(note) for note in notes)
    sections = [
        (
            PageSection(table.title.lower(), table.title),
            Markup(write(table, words=table is tables[-1])) + ("" if n else explained),
        )
        for n, table in enumerate(tables)
    ]
    about = f"{len(grid.rows)} variants of a training, compared with {grid.rows[0].name}"
    return whole_page(templates, [grid.title], about, sections)
