"""The course of one run or two as charts, in the panels that the runs' methods declare."""

from collections.abc import Sequence
from typing import Any

from dinolab.methods import METHODS
from dinolab.options import Config
from dinolab.panels import HEALTH, LOSS, SCHEDULES, SPEED, Panel
from dinolab.report.charts import Chart, Line, chart
from dinolab.report.run import Run
from dinolab.report.sections.section import Page, labels
from dinolab.runs.pictures import panels_of
from dinolab.visuals.curves import points

ORDER = (LOSS, HEALTH, SPEED, SCHEDULES)  # groups that come first


def build(page: Page) -> dict[str, Any]:
    return {"groups": curves(page.runs), "run": page.runs[0]}


def curves(runs: Sequence[Run]) -> dict[str, list[Chart]]:
    """Charts of what is in the runs' metrics.jsonl, by group. With two runs, each figure has a chart, and each run a colour."""
    panels = merge([panel for run in runs for method in methods_of(run) for panel in panels_of(method)])
    groups = dict.fromkeys([*ORDER, *(panel.group for panel in panels)])
    found = {group: [c for panel in panels if panel.group == group for c in charts_of(panel, runs)] for group in groups}
    return {group: charts for group, charts in found.items() if charts}


def methods_of(run: Run) -> list[Config]:
    """The run's configuration; where that is unknown, one for each method, since any of them may have written the figures."""
    known = run.config is not None and run.config.method in METHODS
    return [run.config] if known and run.config else [Config(method=name) for name in METHODS]


def merge(panels: Sequence[Panel]) -> list[Panel]:
    """One panel for each group and title, with the series of all that have these; the labels are those of the largest."""
    merged: dict[tuple[str, str], Panel] = {}
    for panel in panels:
        before = merged.setdefault((panel.group, panel.title), panel)
        small, large = sorted((before, panel), key=lambda one: len(one.series))
        more = {key: label for key, label in small.series.items() if key not in large.series}
        merged[panel.group, panel.title] = large._replace(series={**large.series, **more})
    return list(merged.values())


def charts_of(panel: Panel, runs: Sequence[Run]) -> list[Chart]:
    shown: dict[str, Any] = {"log_y": panel.log, "zero": panel.zero, "percent": panel.percent}
    if len(runs) == 1:
        lines = [Line(label, *points(runs[0].metrics, key)) for key, label in panel.series.items()]
        made = [chart(panel.title, [*lines, *level_of(panel, runs[0], lines)], **shown)]
    else:
        names = labels(runs)
        made = [
            chart(
                panel.title if len(panel.series) == 1 else f"{panel.title}: {label}",
                [Line(name, *points(run.metrics, key), dashed=n > 0) for n, (name, run) in enumerate(zip(names, runs))],
                **shown,
            )
            for key, label in panel.series.items()
        ]
    return [c for c in made if c]


def level_of(panel: Panel, run: Run, lines: Sequence[Line]) -> list[Line]:
    """The panel's horizontal line, as wide as its curves."""
    level = next((row[panel.level] for row in run.metrics if panel.level in row), None) if panel.level else None
    steps = [x for line in lines for x in line.x]
    label = panel.level_label or panel.level.replace("_", " ")
    return [Line(label, [min(steps), max(steps)], [level, level], dashed=True)] if level and steps else []
