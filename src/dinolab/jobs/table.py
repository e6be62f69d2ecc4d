"""The figures of the job's encoders in one table, for the terminal and as Markdown."""

import sys
from pathlib import Path

from rich.console import Console

from dinolab.errors import say
from dinolab.evals import comparison_table
from dinolab.evals.comparison import Comparison, read_comparison
from dinolab.files import write_whole
from dinolab.jobs.job import Job
from dinolab.report.comparison import with_results_apart
from dinolab.report.run import read_run
from dinolab.rundir import COMPARISON, RunFolder


def read_table(out: Path) -> Comparison:
    """The encoders side by side, with the fine-tuned networks among them, which were evaluated apart."""
    comparison = read_comparison(RunFolder(out).evaluations / "all" / COMPARISON)
    return with_results_apart(comparison, read_run(out))


def write_table(job: Job) -> None:
    write_whole(job.table, comparison_table.markdown(read_table(job.out)).encode())


def print_table(out: Path) -> None:
    comparison = read_table(out)
    Console(width=None if sys.stdout.isatty() else 160).print(comparison_table.table(comparison))
    say(*comparison_table.notes(comparison))
