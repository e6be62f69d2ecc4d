"""dinolab grid."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dinolab.cli.grammar import Positional, Verb
from dinolab.cli.train import run_until_stopped
from dinolab.errors import counted, one_line, say, some
from dinolab.fields import option

if TYPE_CHECKING:
    from dinolab.grid.run import Outcome

FAILED = 1  # exit status where some of the runs failed, and the others are finished
SHOWN = 5  # names of failed runs in the last line


@dataclass
class GridOptions:
    base: str = option("", "recipe that all rows start from (empty: the grid's)")
    seeds: int = option(3, "runs of each row, each with another seed", 1, 1000)
    out: str = option("", "folder of the grid (empty: runs/ and the grid's name)")
    jobs: int = option(1, "runs at the same time, each a process of its own", 1, 1000)
    task: int = option(0, "do only the run of this number, in this process, for SLURM arrays (0: all)", 0, 1 << 20)
    plan: str = option(
        "first",
        "forecast of the time: before the runs, without any run, or none",
        choices=("first", "only", "no"),
    )
    each: str = option("", "train every row for this time, such as 6min, instead of for equally many steps")


def run_grid(grid: str, own: GridOptions, words: Sequence[str]) -> int:
    statuses = []

    def work() -> None:
        from dinolab.grid import run_grid

        statuses.append(tell(run_grid(grid, words, **vars(own)), own.task > 0))

    return run_until_stopped(work) or statuses[0]


def tell(found: "Outcome", alone: bool) -> int:
    """Print where the tables are, and which runs failed; the exit status.

    Args:
        alone: a single run was done, so only the first table is named, and failures of others are not told.
    """
    say(*found.tables[:1] if alone else found.tables)
    if alone or not found.failed:
        return 0
    failed = f"{len(found.failed)} of {counted(found.runs, 'run')} failed: {some(found.failed, SHOWN)}"
    print(f"dinolab: {one_line(failed)}. The table says why, and the same command tries again", file=sys.stderr)
    return FAILED


GRID = Verb(
    "variants of a training side by side: every row with several seeds, in one table",
    run_grid,
    about="Train every row of a grid with several seeds on the same images, evaluate each run on the same test images, and compare "
    "the rows with the first one, image by image. The same command again continues; finished runs are not repeated. Training "
    "options are those of all rows. The table is written as Markdown, CSV, JSON and a page. If some runs fail, the others go on, and "
    "the exit status is 1.",
    positionals=(Positional("GRID", "a grid: a YAML file, or one of dinolab's own, such as ablations or methods"),),
    options=(GridOptions,),
    training=True,
    examples=(
        "grid ablations data.path=photos/train eval.test=photos/test",
        "grid mine.yaml data.path=photos base=small_1k seeds=5 jobs=2",
    ),
)
