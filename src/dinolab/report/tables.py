"""Tables of evaluations, benchmarks and facts, as cells that the page prints and sorts."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from dinolab.bench import attention, data, step, throughput
from dinolab.bench.report import cell as in_words
from dinolab.evals.comparison_table import cells, notes, with_finetuned
from dinolab.report.facts import Json, Result, Run

BENCHMARKS = {
    "attention": attention.COLUMNS,
    "throughput": throughput.COLUMNS,
    "step": step.COLUMNS,
    "data": data.COLUMNS,
}
BARS = ("images_per_s", "peak_memory_mb", "images_per_core_s")  # columns that are also drawn
CHOSEN = (
    "size",
    "precision",
    "k",
    "tokens",
    "blocks",
    "C",
    "epochs",
    "batch_size",
    "rate",
)  # of a protocol, worth a word


class Cell(NamedTuple):
    text: str
    value: float | None = None  # what a column sorts by
    share: float | None = None  # of the column's greatest, drawn as a bar


class Table(NamedTuple):
    title: str
    note: str
    headings: list[str]
    rows: list[list[Cell]]
    own: int = 0  # rows on top that are the user's, among others'


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def evaluations(results: Sequence[tuple[str, Run, Result]]) -> Table:
    """A row a result, the best first; of results without an accuracy their figures."""
    several = len({name for name, *_ in results}) > 1
    rows = []
    for name, run, result in sorted(results, key=lambda item: -(item[2].accuracy or 0)):
        row = [Cell(name)] if several else []
        row.append(Cell("this run" if run.is_own(result) else result.encoder))
        rows.append([*row, *cells_of(result)])
    headings = ["encoder", "evaluation", "settings", "accuracy", "95 % interval", "test images", "also"]
    return Table("Evaluations", "", ["run", *headings] if several else headings, rows)


def cells_of(result: Result) -> list[Cell]:
    content, protocol = result.content, result.content["protocol"]
    chosen = [
        f"{key.replace('_', ' ')} {side(protocol[key])}"
        for key in CHOSEN
        if isinstance(protocol.get(key), int | float | str | list)
    ]
    interval, accuracy, images = result.interval, result.accuracy, result.data.get("test_images")
    return [
        Cell(str(protocol.get("name", "?"))),
        Cell(", ".join(chosen)),
        Cell("" if accuracy is None else percent(accuracy), accuracy),
        Cell(
            f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "", interval[0] if interval else None
        ),
        Cell(f"{images:,}" if images else "", images),
        Cell(", ".join(others(content))),
    ]


def comparison(content: Json, run: Run | None = None) -> Table | None:
    """What `dinolab eval all` prints, of a job with its fine-tuned networks; None where that cannot be made of what is there."""
    try:
        if run and run.job:
            tuned = [r for r in run.results if r.kind == "finetune" and r.data.get("test") == content["data"]["test"]]
            own = next((r.content for r in tuned if run.is_own(r)), None)
            content = with_finetuned(content, own, next((r.content for r in tuned if r.is_untrained), None))
        (_, *headings), *lines = cells(content)
        rows = [[Cell(line[0]), *(Cell(text.strip("-"), leading_number(text)) for text in line[1:])] for line in lines]
        return Table("Side by side", " ".join(notes(content)), ["encoder", *headings], rows)
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def leading_number(text: str) -> float | None:
    found = re.match(r"[\d.,]*\d", text)
    return float(found[0].replace(",", "")) if found else None


def side(value: Any) -> str:
    """Sizes as 224 or 224x336."""
    if isinstance(value, list):
        return "x".join(map(str, dict.fromkeys(value) if len(value) == 2 else value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def others(content: Json) -> list[str]:
    """Accuracies told beside the one, and whatever other figures there are."""
    told = [f"{name}: {percent(value)}" for name, value in (content.get("also") or {}).items()]
    if content.get("leaks") and content.get("without_leaks") is not None:
        told.append(f"without leaks: {percent(content['without_leaks'])}")
    over = content.get("seeds")
    if isinstance(over, dict) and {"mean", "std", "seed"} <= over.keys():
        told.append(f"mean of {len(over['seed'])} seeds: {100 * over['mean']:.1f} ± {percent(over['std'])}")
    known = ("accuracy", "without_leaks", "seed")
    return told + [f"{k} {v:.4g}" for k, v in content.items() if isinstance(v, int | float) and k not in known]


def benchmark(content: Json) -> Table:
    """What `dinolab bench` wrote; keys that no benchmark of ours has stand under their own names."""
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
        text = in_words(value, form or (".4g" if isinstance(value, float) else ""))
    except (TypeError, ValueError):  # not what the format is for
        text = str(value)
    if not is_number(value):
        return Cell(text)
    return Cell(text, value, value / greatest if key in BARS and greatest > 0 else None)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def side_by_side(facts: Sequence[dict[str, str]]) -> list[tuple[str, list[str]]]:
    """A row for each fact of any run, a column a run."""
    return [(key, [f.get(key, "") for f in facts]) for key in dict.fromkeys(key for f in facts for key in f)]
