"""What the runs of a grid found, read from their folders: figures with intervals, differences to the first row, costs, troubles.

R runs of a row (its seeds), M test images.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from statistics import fmean, median
from textwrap import shorten
from typing import Any

import numpy as np

from dinolab.config import flatten, to_dict
from dinolab.evals.contract import Figure
from dinolab.evals.evaluate import find
from dinolab.evals.scores import bootstrap_mean, spread
from dinolab.grid.read import Grid, Row, published_row
from dinolab.grid.task import Task, steps_done
from dinolab.methods import METHODS
from dinolab.methods.base import Alarm
from dinolab.rundir import PREDICTIONS
from dinolab.rundir import Row as Line
from dinolab.training.health import WINDOW

LONGEST = 120  # characters of a failure
Interval = tuple[float, float]  # 95 %, over test images


@dataclass
class Found:
    """One evaluation of one row. Shares from 0 to 1."""

    values: dict[int, float] = field(default_factory=dict)  # accuracy by seed
    test_images: int = 0
    mean: float | None = None  # over seeds
    std: float | None = None  # over seeds; None for a single one
    interval: Interval | None = None  # of the mean
    difference: float | None = None  # to the first row, over the seeds that both have; None for the first row
    difference_interval: Interval | None = None
    published: float | None = None  # in the unit of the published table


@dataclass
class Findings:
    """One row."""

    row: Row
    results: dict[str, Found]  # by evaluation
    steps: int | None  # of a run
    images: int | None  # that a run sees, with repetitions
    images_per_s: float | None  # mean over runs of each one's median
    peak_memory: int | None  # bytes, the largest of the runs
    cpu_seconds: float | None  # of training, mean over the runs whose every step was measured
    remarks: list[str]  # collapses, failures, runs that are missing
    alarms: dict[str, str]  # what the alarms mean that the remarks name
    published_network: str = ""  # that the published figures were measured with, if their table names it


def collect(grid: Grid, tasks: Sequence[Task]) -> list[Findings]:
    """The findings of every row, as far as its runs are there; the first row is the one that the others are compared with."""
    by_row = [[task for task in tasks if task.row == row] for row in grid.rows]
    right = {
        name: [{task.seed: read_right(task, name) for task in of_row if task.is_done()} for of_row in by_row]
        for name in grid.evaluations
    }
    found = []
    for number, (row, of_row) in enumerate(zip(grid.rows, by_row)):
        results = {name: compare(right[name][number], right[name][0] if number else None) for name in grid.evaluations}
        published = published_row(grid, row, of_row[0].cfg.model)
        network = published.get("arch", "")
        for name, one in results.items():
            one.published = published_figure(find(name).main, published)
        said = (
            [f"same options as {grid.rows[0].name}"] if number and options_of(of_row[0]) == options_of(tasks[0]) else []
        )
        alarms = {alarm.name: alarm.meaning for task in of_row for alarm in lasting_alarms(task)}
        said += remarks(of_row)
        found.append(Findings(row, results, **costs(of_row), remarks=said, alarms=alarms, published_network=network))
    return found


def options_of(task: Task) -> dict[str, Any]:
    """The options of a run, without its folder."""
    return {key: value for key, value in flatten(to_dict(task.cfg)).items() if key != "run.dir"}


def read_right(task: Task, evaluation: str) -> dict[str, bool]:
    """Whether each test image was classified rightly, by its name."""
    with (task.result(evaluation).parent / PREDICTIONS).open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        return {line["filename"]: line["label"] == line["predicted"] for line in csv.DictReader(file)}


def compare(own: dict[int, dict[str, bool]], base: dict[int, dict[str, bool]] | None) -> Found:
    """The figures of a row from its right predictions by seed, and its difference to the base row."""
    if not own:
        return Found()
    values = {seed: fmean(right.values()) for seed, right in own.items()}
    over_images = mean_by_image(list(own.values()))
    over_seeds = spread(list(values.values()))
    found = Found(
        values,
        test_images=len(over_images),
        mean=over_seeds["mean"],
        std=over_seeds["std"] if len(values) > 1 else None,
        interval=bootstrap_mean(np.array(list(over_images.values()))),
    )
    seeds = sorted(own.keys() & (base or {}).keys())
    if base and seeds:
        ours, theirs = (mean_by_image([side[seed] for seed in seeds]) for side in (own, base))
        differences = np.array([ours[name] - theirs[name] for name in ours if name in theirs])
        if differences.size:
            found.difference, found.difference_interval = float(differences.mean()), bootstrap_mean(differences)
    return found


def mean_by_image(runs: Sequence[dict[str, bool]]) -> dict[str, float]:
    """The share of the runs that classify an image rightly, for each image (M) that all of them could read."""
    shared = [name for name in runs[0] if all(name in run for run in runs)]
    return {name: fmean(run[name] for run in runs) for name in shared}


def published_figure(figure: Figure, row: dict[str, str]) -> float | None:
    """The published figure of the same kind as an evaluation's: the column is that which the evaluation names for any table."""
    columns = [place.partition("@")[0].partition(".")[2] for place in figure.published.split()]
    return next((float(row[column]) for column in columns if row.get(column)), None)


def costs(tasks: Sequence[Task]) -> dict[str, Any]:
    """What training has cost: the fields of Findings by name."""
    records = [task.read_record() for task in tasks]
    lines = [read_lines(task) for task in tasks]
    speeds = [median(line["images_per_s"] for line in of_run) for of_run in lines if of_run]
    steps = max((steps_done(task.folder) for task in tasks), default=0)
    peaks = [record.peak_memory for record in records if record.peak_memory]
    whole = [record.cpu_seconds for record in records if steps and record.steps == steps]
    return {
        "steps": steps or None,
        "images": steps * tasks[0].cfg.optim.batch_size if steps else None,
        "images_per_s": fmean(speeds) if speeds else None,
        "peak_memory": max(peaks, default=None),
        "cpu_seconds": fmean(whole) if whole else None,
    }


def read_lines(task: Task) -> list[Line]:
    """The lines of the run's log that have figures of a training step."""
    return [line for line in task.folder.read_metrics()[0] if "loss" in line and "images_per_s" in line]


def remarks(tasks: Sequence[Task]) -> list[str]:
    """What went wrong: collapses, failures, runs that are not finished; each with its seeds, if it is not all of them."""
    since: dict[Alarm, dict[int, int]] = {}
    failed: dict[str, list[int]] = {}
    for task in tasks:
        for alarm, step in lasting_alarms(task).items():
            since.setdefault(alarm, {})[task.seed] = step
        record = task.read_record()
        if record.failure:
            failed.setdefault(f"failed: {shorten(record.failure.partition('. ')[0], LONGEST)}", []).append(task.seed)
        elif not task.is_done():
            failed.setdefault("not finished", []).append(task.seed)
    found = []
    for alarm, steps in since.items():
        first, last = min(steps.values()), max(steps.values())
        at = f"step {first}" if first == last else f"steps {first} to {last}"
        found.append(f"{alarm.name} since {at}{of_seeds(list(steps), tasks)}")
    return found + [f"{sentence}{of_seeds(seeds, tasks)}" for sentence, seeds in failed.items()]


def lasting_alarms(task: Task) -> dict[Alarm, int]:
    """The method's alarms that the log shows without a break to its end, with the first step of that."""
    lines, found = read_lines(task), {}
    for alarm in METHODS[task.cfg.method].ALARMS:
        shown = list(takewhile(alarm.shown_by, reversed(lines)))
        if len(shown) >= WINDOW:
            found[alarm] = int(shown[-1]["step"])
    return found


def of_seeds(seeds: Sequence[int], tasks: Sequence[Task]) -> str:
    """(seeds 0, 2); empty where it is all of them."""
    listed = ", ".join(map(str, seeds))
    return "" if len(seeds) == len(tasks) else f" (seed{'s' if len(seeds) > 1 else ''} {listed})"


def unequal(findings: Sequence[Findings], each: str) -> str:
    """A sentence where the rows did not see equally many images; empty where they did.

    Args:
        each: the time that each run trained; empty where all have equally many steps.
    """
    seen = {one.row.name: one.images for one in findings if one.images}
    if len(set(seen.values())) < 2:
        return ""
    listed = ", ".join(f"{name} {number:,}" for name, number in seen.items())
    if each:
        return f"Each run trained for about {each}, in which the rows saw different numbers of images: {listed}."
    return f"The rows did not see equally many images, so their figures are not comparable: {listed}."


def test_images(findings: Sequence[Findings]) -> int:
    return max((found.test_images for one in findings for found in one.results.values()), default=0)
