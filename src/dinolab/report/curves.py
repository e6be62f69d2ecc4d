"""The course of one run or two as charts: loss, k-NN, health, schedules; and the time attention takes."""

from collections.abc import Sequence
from typing import Any

from dinolab.methods.panels import DINO_PANELS
from dinolab.panels import GRADIENT, HEALTH, KNN, LOSS, SCHEDULES, SHARED, SPEED, Panel
from dinolab.report.charts import Chart, Line, chart
from dinolab.report.facts import Json, Run
from dinolab.report.tables import is_number
from dinolab.visuals.curves import points

PANELS = (*DINO_PANELS, KNN, GRADIENT, *SHARED)
GROUPS = {group: [panel for panel in PANELS if panel.group == group] for group in (LOSS, HEALTH, SPEED, SCHEDULES)}


def curves(runs: Sequence[Run]) -> dict[str, list[Chart]]:
    """By group, what is in the runs' metrics.jsonl. Of two runs, each figure has a panel, and each run a colour."""
    found = {group: [made for panel in panels for made in of_panel(panel, runs)] for group, panels in GROUPS.items()}
    return {group: charts for group, charts in found.items() if charts}


def of_panel(panel: Panel, runs: Sequence[Run]) -> list[Chart]:
    shown: dict[str, Any] = {"log_y": panel.log, "zero": panel.zero, "percent": panel.percent}
    if len(runs) == 1:
        lines = [Line(label, *points(runs[0].metrics, key)) for key, label in panel.series.items()]
        lines += log_k(runs[0], lines) if "loss" in panel.series else []
        made = [chart(panel.title, lines, **shown)]
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


def log_k(run: Run, lines: Sequence[Line]) -> list[Line]:
    """The loss of a student that predicts nothing, across the panel."""
    level = next((row["log_k"] for row in run.metrics if "log_k" in row), None)
    steps = [x for line in lines for x in line.x]
    return [Line("log K", [min(steps), max(steps)], [level, level], dashed=True)] if level and steps else []


def labels(runs: Sequence[Run]) -> list[str]:
    """The runs' names; numbered where they are the same."""
    names = [run.name for run in runs]
    return [f"{name} ({n})" if names.count(name) > 1 else name for n, name in enumerate(names, 1)]


def attention_charts(rows: Sequence[Json]) -> list[Chart]:
    """Of `dinolab bench attention`: time and memory by tokens, a line a kernel, a panel for each model and pass."""
    made = []
    for model, kind in dict.fromkeys((row.get("model"), row.get("pass")) for row in rows):
        panel = [row for row in rows if (row.get("model"), row.get("pass")) == (model, kind)]
        for title, key in (("ms an image", "ms"), ("peak memory, MB", "peak_memory_mb")):
            lines = []
            for backend in dict.fromkeys(str(row.get("backend")) for row in panel):
                own = [
                    r
                    for r in panel
                    if r.get("backend") == backend and is_number(r.get(key)) and is_number(r.get("tokens"))
                ]
                scale = [r.get("batch") or 1 if key == "ms" else 1 for r in own]
                lines.append(Line(backend, [r["tokens"] for r in own], [r[key] / s for r, s in zip(own, scale)]))
            shown: dict[str, Any] = {"log_y": True} if key == "ms" else {"zero": True}
            made.append(chart(f"ViT {model}, {kind}: {title}, by tokens", lines, log_x=True, x_name="tokens", **shown))
    return [c for c in made if c]
