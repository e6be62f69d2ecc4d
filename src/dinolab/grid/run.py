"""A whole grid: its runs as processes, one after another or several at once, and its tables."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from dinolab import parallel
from dinolab.errors import UserError, counted, say
from dinolab.evals.earlier import read_result
from dinolab.evals.evaluate import find, make_folder
from dinolab.grid.findings import collect, remarks
from dinolab.grid.forecast import forecast, forecast_words
from dinolab.grid.lengths import with_lengths
from dinolab.grid.read import Grid, read_grid
from dinolab.grid.table import write_tables
from dinolab.grid.task import Task, check_images, do_task, make_tasks
from dinolab.machine import cores
from dinolab.training.loop import Interrupted, StopSignals

PLANS = ("first", "only", "no")  # when a forecast is made
WAIT = 0.2  # seconds between two looks at the processes


class Outcome(NamedTuple):
    """What a call of `run_grid` leaves."""

    tables: list[Path]  # the tables' files; none with plan="only"
    failed: list[str]  # names of the runs whose last try failed
    runs: int  # of the grid


def run_grid(
    file: str,
    words: Sequence[str] = (),
    *,
    base: str = "",
    seeds: int = 3,
    out: str | Path = "",
    jobs: int = 1,
    task: int = 0,
    plan: str = "first",
    each: str = "",
) -> Outcome:
    """Train and evaluate every row of a grid with every seed, and write the tables. Finished runs are not repeated.

    Args:
        file: a grid's YAML file, or the name of a shipped one.
        words: `key=value` of a training, for all rows.
        base: a recipe in place of the grid's.
        seeds: runs of each row; their seeds are 0, 1, ... or begin with that of the word seed=.
        out: the grid's folder, by default runs/NAME.
        jobs: processes at once.
        task: the number of a single run, from 1 on, which is then done in this process; 0 does all.
        plan: "first" makes a forecast before the runs start, "only" does nothing else, "no" leaves it out.
        each: the time that each run trains, such as "6min"; empty for equally many steps.

    Raises:
        UserError: a mistake in the grid, the options or the data; with `task` also the reason why the run failed.
        Interrupted: after a signal; the same call goes on.
    """
    parallel.refuse_many("dinolab grid")
    grid = read_grid(file)
    folder = Path(out or Path("runs") / grid.name)
    if each:
        grid = with_lengths(grid, words, base, each, folder, may_time=not task, say=progress)
    tasks = make_tasks(grid, words, base, seeds, folder)
    if task > len(tasks):
        raise UserError(f"task={task}: the grid has {counted(len(tasks), 'run')}")
    check_images(tasks[0].cfg)
    make_folder(folder)
    left = [one for one in tasks if not one.is_done()]
    try:
        if task:
            do_task(tasks[task - 1])
        elif left:
            say(
                first_line(
                    grid, base or grid.base, seeds, f"{len(left)} of {counted(len(tasks), 'run')} to do, in {folder}"
                )
            )
            if plan != "no":
                say(*forecast_words(left, forecast(left, progress), jobs))
            if plan == "only":
                return Outcome([], [], len(tasks))
            given = {"base": base, "seeds": seeds, "out": folder, "each": each}
            options = [f"{key}={value}" for key, value in given.items() if value]
            run_all(tasks, jobs, lambda number: [file, *words, *options, f"task={number}"])
    finally:
        written = write_tables(grid, collect(grid, tasks), base or grid.base, words, folder) if plan != "only" else []
    return Outcome(written, [one.name for one in tasks if one.read_record().failure], len(tasks))


def first_line(grid: Grid, recipe: str, seeds: int, work: str) -> str:
    """What is about to be done."""
    start = f"recipe {recipe}" if recipe else "no recipe: options that are not given have their defaults"
    return f"{grid.name} ({start}): {counted(len(grid.rows), 'row')} x {counted(seeds, 'seed')}; {work}"


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_all(tasks: Sequence[Task], jobs: int, words: Callable[[int], list[str]]) -> None:
    """Do the runs that are not finished, each in a process of its own. One that fails does not stop the others.

    Args:
        words: the words of `dinolab grid` that do the run of this number alone.

    Raises:
        Interrupted: after a signal, when all processes have saved and ended.
    """
    waiting = [(number, task) for number, task in enumerate(tasks, 1) if not task.is_done()]
    running: dict[int, subprocess.Popen] = {}
    with StopSignals() as signals:
        try:
            while (waiting or running) and not signals.seen:
                while waiting and len(running) < jobs:
                    number, task = waiting.pop(0)
                    say(f"[{number}/{len(tasks)}] {task.name} ... {task.output}")
                    running[number] = start(task, words(number), jobs)
                for number in [number for number, process in running.items() if process.poll() is not None]:
                    ended(tasks[number - 1], running.pop(number).returncode, f"[{number}/{len(tasks)}]")
                time.sleep(WAIT)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
        if signals.seen:
            raise Interrupted(signals.seen)


def start(task: Task, words: list[str], jobs: int) -> subprocess.Popen:
    """Begin a run; several at once share the cores."""
    task.output.parent.mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // jobs))} if jobs > 1 else {}
    command = [sys.executable, "-m", "dinolab", "grid", *words]
    with task.output.open("ab") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=threads | os.environ
        )


def ended(task: Task, status: int, place: str) -> None:
    """Print what a run found, or why it has no result, which the record then holds."""
    record = task.read_record()
    if status and not record.failure:
        by = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        record.failure = f"the process ended early ({by}), see {task.output}"
        task.write_record(record)
    say(f"{place} {task.name}: {'; '.join([*results_in_words(task), *remarks([task])])}")


def results_in_words(task: Task) -> list[str]:
    """k-NN 76.8%, for each evaluation that is there."""
    found = ((find(name), read_result(task.result(name))) for name in task.evaluations if task.result(name).is_file())
    return [
        f"{evaluation.title} {evaluation.main.text(result.main.value)}" for evaluation, result in found if result.main
    ]
