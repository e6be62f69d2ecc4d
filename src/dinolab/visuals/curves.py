"""Curves of a run, from its metrics.jsonl, and of its schedules: one PNG of small panels each.

Which panels there are is the caller's choice: a method knows its own figures, this file knows none.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dinolab.errors import UserError
from dinolab.panels import Panel
from dinolab.plotting import COLOURS, STYLES, new_figure, open_frame, save
from dinolab.rundir import Row, RunFolder, read_metrics

FEW = 30  # points: a curve of no more has a marker on each

log = logging.getLogger(__name__)


def plot_metrics(run: Path, out: Path, panels: Sequence[Panel]) -> None:
    """Draw the figures of a run as a PNG. Panels without data are left out.

    Args:
        run: the run's folder, or its metrics.jsonl.
        out: the PNG.
        panels: drawn row by row; those of the same group stand together.

    Raises:
        UserError: the file is missing, or holds no figures yet.
    """
    file = RunFolder(run).metrics if run.is_dir() else run
    if not file.is_file():
        raise UserError(f"{file}: no such file; curves are drawn from the metrics.jsonl in a run's folder")
    rows, problems = read_metrics(file)
    for problem in problems:
        log.warning("%s: %s", file.parent, problem)
    if not rows:
        raise UserError(f"{file}: holds no figures yet; wait until the run has written its first lines")
    epochs = points(rows, "epoch")[1]
    end = f"step {rows[-1]['step']:,.0f}" + (f", epoch {epochs[-1]:.4g}" if epochs else "")
    draw(rows, panels, f"{file.absolute().parent.name}: {end}", out)


def plot_schedules(rows: Sequence[Row], out: Path, panels: Sequence[Panel]) -> None:
    """Draw schedules as a PNG: rows hold "step" and scheduled values by name. Panels without data are left out."""
    draw(rows, panels, "schedules", out)


def points(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """Return the steps and the values of the rows that have a finite number under this key."""
    found = [
        (row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])
    ]
    return [step for step, _ in found], [value for _, value in found]


def draw(rows: Sequence[Row], panels: Sequence[Panel], title: str, out: Path) -> None:
    """Draw the panels that have data, group by group, in three columns (four panels in two)."""
    groups = [panel.group for panel in panels]
    panels = sorted(panels, key=lambda panel: groups.index(panel.group))
    shown = [panel for panel in panels if any(points(rows, key)[0] for key in panel.series)]
    columns = min(len(shown), 3 if len(shown) != 4 else 2) or 1
    lines = math.ceil(len(shown) / columns) or 1
    figure = new_figure(max(4.2 * columns, 5), 2.6 * lines + 0.5)
    figure.suptitle(title if shown else f"{title} (nothing to draw)", fontsize=13)
    last = max((row["step"] for row in rows), default=0)
    for i, panel in enumerate(shown, 1):
        draw_panel(figure.add_subplot(lines, columns, i), rows, panel, last)
    save(figure, out)


def draw_panel(axes: Axes, rows: Sequence[Row], panel: Panel, last: float) -> None:
    """Draw a panel's curves, each in its own colour and line style; the axis of steps ends at `last`."""
    level = next((row[panel.level] for row in rows if panel.level in row), None)
    if level is not None:
        axes.axhline(level, color="0.4", linewidth=1.2, linestyle=(0, (4, 3)), label=panel.level_label)
    for (key, label), colour, style in zip(panel.series.items(), COLOURS, STYLES):
        steps, values = points(rows, key)
        if steps:
            marker = "o" if len(steps) <= FEW else None
            axes.plot(steps, values, style, color=colour, linewidth=1.5, marker=marker, markersize=3.5, label=label)
    legend = len(axes.lines) > 1
    if legend:
        place_legend(axes)
    if panel.log:
        axes.set_yscale("log")
    elif panel.zero:
        axes.set_ylim(bottom=0)
    if panel.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.set_title(panel.title, fontsize=11, loc="left", pad=20 if legend else 6)
    axes.set_xlabel("step", fontsize=9)
    axes.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.tick_params(labelsize=9)
    open_frame(axes)


def place_legend(axes: Axes) -> None:
    """Put the legend above the curves, in one line, where it hides none of them."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.98),
        ncols=len(axes.lines),
        fontsize=8,
        frameon=False,
        handlelength=1.6,
        columnspacing=0.9,
        handletextpad=0.4,
    )
