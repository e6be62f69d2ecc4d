"""Progress bars on stderr, or in a notebook below the cell: the title of the work, the number of items done, and the time left."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from dinolab.errors import one_line

T = TypeVar("T")
PATIENCE = 2.0  # seconds before `count_up` shows anything
REDRAWN = 0.5  # seconds between two drawings in a notebook, at least
NOTEBOOK = Console().is_jupyter  # whether this Python runs in a notebook


class NotebookBar(Progress):
    """A bar that keeps one output of a notebook's cell up to date; rich's own way to do so needs ipywidgets.

    It is drawn by the thread that counts, so it appears below the cell that this thread belongs to.
    """

    _output: Any = None  # IPython's handle of the output; None before the start
    _drawn = 0.0  # time of the last drawing

    def start(self) -> None:
        from IPython.display import display

        self._output = self._output or display(self, display_id=True)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        if time.monotonic() - self._drawn > REDRAWN:
            self.refresh()

    def refresh(self) -> None:
        if self._output:
            self._drawn = time.monotonic()
            self._output.update(self)

    def stop(self) -> None:
        self.refresh()


def make_bar(*columns: ProgressColumn, console: Console, shown: bool, transient: bool = False) -> Progress:
    """A bar that is not started; see rich's Progress."""
    kind = NotebookBar if NOTEBOOK and shown else Progress
    return kind(*columns, console=console, disable=not shown, transient=transient)


def can_move(console: Console) -> bool:
    """Whether a bar can be drawn over itself there: on a terminal and in a notebook, but not in a file."""
    return NOTEBOOK or console.is_terminal


@contextmanager
def progress_bar(title: str, total: int, shown: bool, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; yields a function that adds a number of finished items.

    Args:
        title: what is being done; file names in it need no escaping.
        total: number of items.
        shown: False shows nothing.
        unit: name of an item in the plural, to show a speed such as "120 images/s"; empty shows no speed.
    """
    speed = [TextColumn(f"{{task.fields[speed]}} {unit}/s")] if unit else []
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *speed,
        TimeRemainingColumn(),
    )
    with make_bar(*columns, console=Console(stderr=True), shown=shown) as bar:
        task = bar.add_task(one_line(title), total=total, speed="-")

        def advance(items: int = 1) -> None:
            rate = bar.tasks[0].speed
            bar.update(task, advance=items, speed=f"{rate:,.0f}" if rate else "-")

        yield advance


def track(items: Iterable[T], title: str, total: int, shown: bool, start: int = 0) -> Iterator[T]:
    """Yield the items one after another, and count them on a bar.

    Args:
        items: to be yielded.
        title: what is being done with them.
        total: number of items, with those that were done before.
        shown: False shows nothing.
        start: number of items that were done before.
    """
    with progress_bar(title, total, shown) as advance:
        if start:
            advance(start)
        for item in items:
            yield item
            advance(1)


@contextmanager
def count_up(title: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of items so far, whose total is unknown; it is shown once that takes long.

    Args:
        title: what is being done.
        unit: name of an item in the plural.
    """
    began = time.monotonic()
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold"))
    bar = make_bar(*columns, console=console, shown=can_move(console), transient=True)
    task = bar.add_task("", total=None)

    def count(items: int) -> None:
        if items % 1000 == 0 and time.monotonic() - began > PATIENCE:
            bar.update(task, description=f"{one_line(title)}: {items:,} {unit}")
            bar.start()  # once: what is started stays as it is

    try:
        yield count
    finally:
        bar.stop()
