"""The course of a run, from its metrics.jsonl, and its schedules: one PNG of small panels each."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dinolab.errors import UserError
from dinolab.visuals.sheet import save

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
STYLES = ("-", "--", "-.", ":")

Row = dict[str, float]


class Panel(NamedTuple):
    title: str
    series: dict[str, str]  # key in a row: label in the legend
    log: bool = False
    zero: bool = False  # show the axis from 0


SCHEDULES = (
    Panel("learning rate", {"lr": "learning rate"}, zero=True),
    Panel("weight decay", {"weight_decay": "weight decay"}, zero=True),
    Panel("teacher's EMA momentum", {"momentum": "momentum"}),
    Panel("teacher temperature", {"teacher_temperature": "temperature"}),
)
METRICS = (
    Panel("loss", {"loss": "sum", "dino": "DINO", "ibot": "iBOT", "koleo": "KoLeo"}),
    Panel("k-NN accuracy", {"knn": "accuracy"}),
    Panel("teacher: entropy, and KL from student", {"teacher_entropy": "entropy", "kl": "KL"}, zero=True),
    Panel("effective rank of the features", {"effective_rank": "rank"}, zero=True),
    Panel("prototypes used", {"prototypes_used": "prototypes"}, zero=True),
    Panel("norm of the centre", {"centre_norm": "norm"}, zero=True),
    Panel("norm of the gradient", {"grad_norm": "norm"}, log=True),
    Panel("images/s", {"images_per_s": "images/s"}, zero=True),
    Panel("waiting for data", {"data_wait": "wait"}, zero=True),
    *SCHEDULES,
)


def plot_metrics(jsonl: Path, out: Path) -> None:
    """PNG of all curves found in a run's metrics.jsonl; panels without data are left out.

    Raises UserError if the file is missing, empty or not JSON lines.
    """
    rows = read_metrics(jsonl)
    epochs = points(rows, "epoch")[1]
    end = f"step {rows[-1]['step']:,.0f}" + (f", epoch {epochs[-1]:.4g}" if epochs else "")
    draw(rows, METRICS, f"{jsonl.absolute().parent.name}: {end}", out, log_k=rows[0].get("log_k"))


def plot_schedules(rows: Sequence[Row], out: Path) -> None:
    """PNG of the schedules: rows of "step" and any of lr, weight_decay, momentum, teacher_temperature."""
    draw(rows, SCHEDULES, "schedules", out)


def read_metrics(jsonl: Path) -> list[Row]:
    """The lines of a metrics.jsonl, in steps that never go back.

    A resumed run repeats the steps since its checkpoint: the later lines count. The last line of a killed run may be
    cut off and is then ignored.
    """
    if not jsonl.is_file():
        raise UserError(f"{jsonl}: no such file; curves are drawn from the metrics.jsonl of a run's folder")
    rows: list[Row] = []
    lines = jsonl.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            step = row["step"]
        except (json.JSONDecodeError, KeyError, TypeError):
            if number == len(lines):
                break
            raise UserError(f'{jsonl}: line {number} is not a JSON object with "step"; remove that line') from None
        while rows and rows[-1]["step"] > step:
            rows.pop()
        rows.append(row)
    if not rows:
        raise UserError(f"{jsonl}: holds no measurement yet; wait for the run's first lines")
    return rows


def points(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the rows that have a finite number under the key."""
    found = [
        (row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])
    ]
    return [step for step, _ in found], [value for _, value in found]


def draw(rows: Sequence[Row], panels: Sequence[Panel], title: str, out: Path, log_k: float | None = None) -> None:
    shown = [panel for panel in panels if any(points(rows, key)[0] for key in panel.series)]
    columns = min(len(shown), 3 if len(shown) != 4 else 2) or 1
    lines = math.ceil(len(shown) / columns) or 1
    figure = Figure((max(4.2 * columns, 5), 2.6 * lines + 0.5), layout="constrained", facecolor="white")
    figure.suptitle(title if shown else f"{title} (nothing to draw)", fontsize=13)
    last = max((row["step"] for row in rows), default=0)
    for i, panel in enumerate(shown, 1):
        axes = figure.add_subplot(lines, columns, i)
        if "loss" in panel.series and log_k is not None:
            axes.axhline(log_k, color="0.4", linewidth=1.2, linestyle=(0, (4, 3)), label="log K")
        plot(axes, rows, panel, last)
    save(figure, out)


def plot(axes: Axes, rows: Sequence[Row], panel: Panel, last: float) -> None:
    """One panel's curves, each in a colour and a line style of its own."""
    for (key, label), colour, style in zip(panel.series.items(), COLOURS, STYLES):
        steps, values = points(rows, key)
        if steps:
            marker = "o" if len(steps) <= 30 else None
            axes.plot(steps, values, style, color=colour, linewidth=1.5, marker=marker, markersize=3.5, label=label)
    legend = len(axes.lines) > 1
    if legend:  # above the curves, never on them
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
    if panel.log:
        axes.set_yscale("log")
    elif panel.zero:
        axes.set_ylim(bottom=0)
    if panel.title.startswith("k-NN"):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.set_title(panel.title, fontsize=11, loc="left", pad=20 if legend else 6)
    axes.set_xlabel("step", fontsize=9)
    axes.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.tick_params(labelsize=9)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
