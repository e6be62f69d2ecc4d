"""How long a grid will take, from a few real steps of each of its rows that differ in speed."""

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dinolab.config import to_dict
from dinolab.errors import UserError, counted
from dinolab.grid.task import Task
from dinolab.methods import METHODS
from dinolab.plan import plan
from dinolab.plan.text import duration
from dinolab.training.loop import Interrupted

STEPS = 6  # that are measured of each row
SPEEDLESS = ("seed", "loss", "ema", "run")  # options and sections that hardly change a step's time


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """Inside the block SIGTERM raises Interrupted, as Ctrl-C raises KeyboardInterrupt, so that temporary folders are removed."""

    def stop(signum: int, frame: object) -> None:
        raise Interrupted(signum)

    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@stopped_at_once()
def forecast(tasks: Sequence[Task], say: Callable[[str], None]) -> dict[str, float]:
    """The seconds of a run of each row, by its name. Rows with the same network and crops are timed once.

    A row that cannot be trained is left out: the grid goes on without it.

    Args:
        say: called with a line before each row that is timed, and with the reason where one cannot be.
    """
    timed: dict[str, float] = {}
    for task in {task.row.name: task for task in tasks}.values():
        key = alike(task)
        if key not in timed:
            say(f"forecast: timing {STEPS} steps of {task.row.name}")
            try:
                timed[key] = plan(task.cfg, STEPS).total_seconds
            except UserError as error:
                say(f"forecast: {task.row.name} cannot be timed: {error}")
    return {task.row.name: timed[alike(task)] for task in tasks if alike(task) in timed}


def alike(task: Task) -> str:
    """A text that is the same for rows whose runs take equally long."""
    cfg = task.cfg
    options = {name: value for name, value in to_dict(cfg).items() if name not in SPEEDLESS}
    options["optim"] = [cfg.optim.length, cfg.optim.batch_size, cfg.optim.name]
    return json.dumps([options, str(METHODS[cfg.method].needs(cfg))], sort_keys=True)


def forecast_words(tasks: Sequence[Task], seconds: dict[str, float], jobs: int) -> list[str]:
    """Lines that tell the time of the runs that are not finished."""
    total = duration(sum(seconds.get(task.row.name, 0) for task in tasks))
    lines = [f"  {name}: {duration(each)} a run" for name, each in seconds.items()]
    beside = ", with one run at a time; runs beside each other share the machine" if jobs > 1 else ""
    return [
        f"forecast: {total} of training for {counted(len(tasks), 'run')}{beside}; the evaluations at their ends are not included",
        *lines,
    ]
