"""The figures of the job's encoders in one table, for the terminal and as Markdown."""

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Shown

from dinolab.errors import UserError
from dinolab.files import write_whole
from dinolab.jobs.job import Job
from dinolab.report.comparison import comparison_table
from dinolab.report.run import read_run
from dinolab.report.tables import Table


def read_table(out: Path) -> Table:
    """The report's table: encoders side by side, with the fine-tuned networks among them.

    Raises:
        UserError: the job has compared nothing yet.
    """
    run = read_run(out)
    table = next((made for found in run.comparisons if (made := comparison_table(found, run))), None)
    if table is None:
        raise UserError(f"{out}: no encoders are compared yet; do the stage evaluate")
    return table


def write_table(job: Job) -> None:
    write_whole(job.table, markdown(read_table(job.out)).encode())


def print_table(out: Path) -> None:
    table = read_table(out)
    shown = Shown(show_edge=False)
    for number, name in enumerate(table.headings):
        shown.add_column(escape(name), justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*(escape(cell.text or "-") for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(shown)
    print(table.note)


def markdown(table: Table) -> str:
    rows = [table.headings, ["---", *["---:"] * (len(table.headings) - 1)]]
    rows += [[cell.text.replace("|", "\\|") or "-" for cell in row] for row in table.rows]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", table.note]) + "\n"
