"""Progress bars on stderr: the title of the work, the number of items done, and the time left."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from dinolab.errors import one_line

T = TypeVar("T")
PATIENCE = 2.0  # seconds before `count_up` shows anything


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
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
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
    status = Console(stderr=True).status(Text(one_line(title)))
    started = False

    def count(items: int) -> None:
        nonlocal started
        if items % 1000 == 0 and time.monotonic() - began > PATIENCE:
            status.update(Text(f"{one_line(title)}: {items:,} {unit}"))
            if not started:
                status.start()
                started = True

    try:
        yield count
    finally:
        status.stop()
