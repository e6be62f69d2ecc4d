"""The output of a benchmark: a table on stdout, NAME.json and NAME.png."""

import json
import shlex
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dinolab.bench.common import Row, Setting
from dinolab.files import write_whole
from dinolab.machine import environment
from dinolab.plotting import COLOURS, new_figure, open_frame, save

Columns = dict[str, tuple[str, str]]  # key in a row: header, format

TIMES: Columns = {
    "ms": ("ms", ",.2f"),
    "ms_quartiles": ("quartiles", ",.2f"),
    "images_per_s": ("images/s", ",.1f"),
    "peak_memory_mb": ("peak memory, MB", ",.0f"),
}


def collect(rows: Iterable[Row], what: Sequence[str]) -> list[Row]:
    """Measure all rows, and print each on stderr when it is done; Ctrl-C ends the measuring and keeps the rows so far.

    Args:
        rows: measured one after another.
        what: the columns that name a row.
    """
    found: list[Row] = []
    try:
        for row in rows:
            found.append(row)
            result = row.get("note") or f"{row['images_per_s']:,.1f} images/s"
            print(", ".join(str(row[key]) for key in what), result, sep=": ", file=sys.stderr)
    except KeyboardInterrupt:
        if not found:
            raise
        print("stopped: the table and the files have the rows measured so far", file=sys.stderr)
    return found


def report(
    name: str, title: str, rows: list[Row], columns: Columns, out: Path, setting: Setting, conclusion: str = ""
) -> None:
    """Print the table and write NAME.json. The benchmark itself draws NAME.png.

    Args:
        name: of the benchmark and its files.
        title: above the table.
        rows: figures by column.
        columns: those to show; a column without any figure is left out.
        out: folder of the files.
        setting: recorded in the file.
        conclusion: a sentence below the table.
    """
    shown = {key: column for key, column in (columns | {"note": ("", "")}).items() if any(key in row for row in rows)}
    table = Table()
    for key, (header, _) in shown.items():
        table.add_column(header, justify="left" if any(isinstance(row.get(key), str) for row in rows) else "right")
    for row in rows:
        table.add_row(*(cell(row.get(key), form) for key, (_, form) in shown.items()))
    print(title)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    content = {
        "benchmark": name,
        "command": shlex.join(["dinolab", *sys.argv[1:]]),
        "title": title,
        "environment": environment() | {"threads": torch.get_num_threads()},
        "device": str(setting.device),
        "dtype": str(setting.dtype).removeprefix("torch."),
        "seconds": setting.seconds,
        "rows": rows,
        "conclusion": conclusion,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / f"{name}.json", (json.dumps(content, indent=2) + "\n").encode())
    if conclusion:
        print(conclusion)
    print(f"{out / name}.json, {out / name}.png")


def cell(value: Any, form: str) -> str:
    """Format a figure, or several as a range; None is an empty cell."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " – ".join(format(v, form) for v in value)
    return format(value, form)


def bars(rows: list[Row], labels: Sequence[str], panels: Columns, title: str, out: Path) -> None:
    """Draw a PNG of horizontal bars: a line for each row, a panel for each column. A row without a figure shows its note.

    Args:
        rows: figures by column.
        labels: names of the rows.
        panels: the columns to draw; a column without any figure is left out.
        title: above the panels.
        out: the PNG.
    """
    shown = {key: column for key, column in panels.items() if any(row.get(key) is not None for row in rows)}
    width = 3 + 3.2 * max(1, len(shown))  # inches
    figure = new_figure(width, 1.2 + 0.36 * len(rows))
    figure.suptitle(textwrap.fill(title, int(10 * width)), fontsize=12, x=0.01, ha="left")
    places = range(len(rows))
    for n, (key, (header, form)) in enumerate(shown.items(), 1):
        axes = figure.add_subplot(1, len(shown), n)
        values = [row.get(key) for row in rows]
        axes.barh(places, [value or 0 for value in values], color=COLOURS[(n - 1) % len(COLOURS)], height=0.7)
        for place, value, row in zip(places, values, rows):
            text = row.get("note", "") if value is None else cell(value, form)
            axes.annotate(text, (value or 0, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_yticks(places, labels if n == 1 else [""] * len(rows))
        axes.set_xlim(0, 1.3 * max((value for value in values if value), default=1))
        axes.set_title(header, fontsize=11, loc="left")
        axes.invert_yaxis()
        axes.tick_params(labelsize=9, length=0)
        axes.set_xticks([])
        open_frame(axes, grid="")
        axes.spines["bottom"].set_visible(False)
    save(figure, out)
