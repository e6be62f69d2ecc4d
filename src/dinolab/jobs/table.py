"""The figures of a job in one table, for the terminal and as Markdown."""

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dinolab.errors import printable, say
from dinolab.evals import comparison_table
from dinolab.evals.comparison import Comparison, read_comparison
from dinolab.files import write_whole
from dinolab.jobs.har_job import HarJob
from dinolab.report.comparison import with_results_apart
from dinolab.report.run import read_run
from dinolab.report.sections.ways import WAYS
from dinolab.rundir import COMPARISON, RunFolder
from dinolab.schemas import read_object


def read_table(out: Path) -> Comparison:
    """The encoders side by side, with the fine-tuned networks among them, which were evaluated apart."""
    comparison = read_comparison(RunFolder(out).evaluations / "all" / COMPARISON)
    return with_results_apart(comparison, read_run(out))


def write_table(job: HarJob) -> None:
    write_whole(job.table, comparison_table.markdown(read_table(job.out)).encode())


def print_table(out: Path) -> None:
    comparison = read_table(out)
    Console(width=None if sys.stdout.isatty() else 160).print(comparison_table.table(comparison))
    say(*comparison_table.notes(comparison))


def print_ways(out: Path) -> None:
    """The ways of a job in one table, and the recommendation."""
    found = read_object(RunFolder(out).figures, WAYS)
    headings, *lines = found["table"]
    shown = Table(show_edge=False)
    for n, name in enumerate(headings):
        shown.add_column(name, justify="right" if n else "left")
    for line in lines:
        shown.add_row(*(escape(printable(cell)) for cell in line))
    Console(width=None if sys.stdout.isatty() else 160).print(shown)
    say(*found["notes"], "", *found["recommendation"])
