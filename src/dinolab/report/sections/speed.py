"""Speed and memory: what `dinolab bench` measured."""

from collections.abc import Sequence
from typing import Any

from dinolab.bench import attention, data, step, throughput
from dinolab.bench.report import cell as as_text
from dinolab.report.charts import Chart, Line, chart
from dinolab.report.run import Json
from dinolab.report.sections.section import Page
from dinolab.report.tables import Cell, Table, is_number

BENCHMARKS = {
    "attention": attention.COLUMNS,
    "throughput": throughput.COLUMNS,
    "step": step.COLUMNS,
    "data": data.COLUMNS,
}
BARS = ("images_per_s", "peak_memory_mb", "images_per_core_s")  # columns that are also drawn


def build(page: Page) -> dict[str, Any]:
    tables = [[(benchmark_table(found), charts_of(found)) for found in run.benchmarks] for run in page.runs]
    return {"parts": [{"run": run, "tables": found} for run, found in zip(page.runs, tables)]}


def benchmark_table(content: Json) -> Table:
    """The rows of a benchmark; keys that no known benchmark has are headed by their own names."""
    rows = content["rows"]
    known = BENCHMARKS.get(str(content.get("benchmark")), {})
    columns = known or {key: (key.replace("_", " "), "") for row in rows for key in row}
    columns = {
        key: column
        for key, column in (columns | {"note": ("", "")}).items()
        if any(row.get(key) is not None for row in rows)
    }
    greatest = {key: max((row[key] for row in rows if is_number(row.get(key))), default=0) for key in columns}
    table = [[cell(key, form, row.get(key), greatest[key]) for key, (_, form) in columns.items()] for row in rows]
    note = str(content.get("conclusion") or "")
    return Table(str(content.get("title", "Measurements")), note, [heading for heading, _ in columns.values()], table)


def cell(key: str, form: str, value: Any, greatest: float) -> Cell:
    try:
        text = as_text(value, form or (".4g" if isinstance(value, float) else ""))
    except (TypeError, ValueError):  # the format is for another type
        text = str(value)
    if not is_number(value):
        return Cell(text)
    return Cell(text, value, value / greatest if key in BARS and greatest > 0 else None)


def charts_of(content: Json) -> list[Chart]:
    return attention_charts(content["rows"]) if content.get("benchmark") == "attention" else []


def attention_charts(rows: Sequence[Json]) -> list[Chart]:
    """Time and memory of `dinolab bench attention` by tokens: a line for each kernel, a chart for each model and pass."""
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
