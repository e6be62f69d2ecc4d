"""Rows that train equally long: how many steps of each fit into a time, from a few real ones."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dinolab.errors import UserError
from dinolab.evals.evaluate import make_folder
from dinolab.files import write_whole
from dinolab.grid.forecast import stopped_at_once
from dinolab.grid.read import Grid, Row
from dinolab.grid.task import check_images, row_config
from dinolab.plan import Plan, plan
from dinolab.plan.text import parse_time
from dinolab.schemas import EACH, Schema, read_object

FILE = "lengths.json"
LENGTHS: Schema = {"each": str, "steps": {EACH: int}}
STEPS = 12  # that are timed of each row
ROUGH = "100 steps"  # length of the run whose steps are timed


@stopped_at_once()
def with_lengths(
    grid: Grid, words: Sequence[str], base: str, each: str, folder: Path, may_time: bool, say: Callable[[str], None]
) -> Grid:
    """The grid with as many steps for each row as fit into the time; they are kept in the grid's folder.

    Args:
        grid: as its file says.
        words: `key=value` of the user, which all rows have.
        base: a recipe in place of the grid's.
        each: the time of a run without its evaluations at the end, such as 6min.
        folder: of the grid.
        may_time: whether rows may be timed. If not, their steps must be kept already.
        say: called with a line before each row that is timed, and with the reason where one cannot be.

    Raises:
        UserError: `each` is no time, or another one than that of the runs that are there; rows must be timed, but may not, or their
            images are missing.
    """
    seconds, file = parse_time(each, "each"), folder / FILE
    kept: dict[str, Any] = read_object(file, LENGTHS) if file.is_file() else {"each": each, "steps": {}}
    if kept["each"] != each:
        raise UserError(f"each={each}: the runs in {folder} have each={kept['each']}. Give the same, or another out=")
    missing = [row for row in grid.rows if row.name not in kept["steps"]]
    if missing and not may_time:
        raise UserError(
            f"each={each}: it is not known yet how many steps that are. Give the command once with plan=only"
        )
    if missing:
        check_images(row_config(grid, grid.rows[0], words, base))
        make_folder(folder)
    for row in missing:
        try:
            cfg = row_config(grid, replace(row, words=(*row.words, f"optim.length={ROUGH}")), words, base)
            say(f"each={each}: timing {STEPS} steps of {row.name}")
            kept["steps"][row.name] = steps_in(seconds, plan(cfg, STEPS))
            write_whole(file, (json.dumps(kept, indent=2) + "\n").encode())
        except UserError as error:  # the row fails later, and the others go on
            say(f"each={each}: {row.name} cannot be timed: {error}")
    return replace(grid, each=each, rows=tuple(longer(row, kept["steps"].get(row.name)) for row in grid.rows))


def steps_in(seconds: float, measured: Plan) -> int:
    """Steps that fit, beside the evaluations and checkpoints during training. At least one."""
    beside = measured.evaluations * measured.evaluation_seconds + measured.checkpoints * measured.checkpoint_seconds
    return max(1, int((seconds - beside) / measured.seconds_per_step))


def longer(row: Row, steps: int | None) -> Row:
    return row if steps is None else replace(row, words=(*row.words, f"optim.length={steps} steps"))
