"""Evaluations: side by side, one by one, the confusions and classes of the best one, and published figures."""

from collections.abc import Sequence
from typing import Any

from dinolab.errors import UserError
from dinolab.evals import EVALS
from dinolab.evals.confusion import NUMBERS
from dinolab.report.comparison import comparison_table
from dinolab.report.details import details
from dinolab.report.evaluated import OWN, Evaluated, between, goodness, rank, setting
from dinolab.report.pictures import Picture, data_uri
from dinolab.report.predictions import class_examples, confusion, read_predictions
from dinolab.report.published import published
from dinolab.report.run import Run
from dinolab.report.sections.section import NO_PHOTOS, Page, View
from dinolab.report.tables import Cell, Table, percent
from dinolab.rundir import CONFUSION


def build(page: Page) -> dict[str, Any]:
    results = [(view.label, view.run, evaluated) for view in page.views for evaluated in view.run.results]
    return {
        "comparisons": [[comparison_table(found.comparison, run) for found in run.comparisons] for run in page.runs],
        "table_of_all": evaluations(results) if results else None,
        "abouts": {evaluated.title: evaluated.about for *_, evaluated in results if evaluated.about},
        "first": next(iter(EVALS)),
        "parts": [
            {"label": view.label, "run": view.run, "details": details(view.run, page.photos)} | best(view, page.photos)
            for view in page.views
        ],
        "published": published(page.runs),
    }


def evaluations(results: Sequence[tuple[str, Run, Evaluated]]) -> Table:
    """A row for each result: by evaluation in the order of EVALS, and the best first."""
    several = len({label for label, *_ in results}) > 1
    names = {evaluated.figure.title for *_, evaluated in results if evaluated.main}
    heading = names.pop() if len(names) == 1 else ""
    rows = []
    for label, run, evaluated in sorted(
        results, key=lambda item: (rank(item[2].result.evaluation), -goodness(item[2]))
    ):
        row = [Cell(label)] if several else []
        row.append(Cell(OWN if run.is_own(evaluated) else evaluated.encoder))
        rows.append([*row, *cells_of(evaluated, named=not heading)])
    headings = ["encoder", "evaluation", heading or "figure", "95% interval", "test images", "also", "settings"]
    return Table("Evaluations", "", ["run", *headings] if several else headings, rows)


def cells_of(evaluated: Evaluated, named: bool) -> list[Cell]:
    """Everything of a result but its encoder. `named` puts the figure's title before its value."""
    result, main, figure = evaluated.result, evaluated.main, evaluated.figure
    settings = [
        f"{key.replace('_', ' ')} {setting(value)}" for key, value in result.settings.items() if is_shown(value)
    ]
    value, interval = Cell(""), Cell("")
    if main:
        text = figure.text(main.value)
        value = Cell(f"{figure.title} {text}" if named else text, main.value)
    if main and main.interval:
        interval = Cell(between(main.interval, figure), main.interval[0])
    images = result.data.get("test_images")
    return [
        Cell(evaluated.title),
        value,
        interval,
        Cell(f"{images:,}" if images else "", images),
        Cell(", ".join(others(evaluated))),
        Cell(", ".join(settings)),
    ]


def is_shown(value: Any) -> bool:
    """Whether a setting fits into a line: a word, a number, or a list of them."""
    values = value if isinstance(value, list | tuple) else [value]
    return value not in ("", [], ()) and all(isinstance(one, int | float | str) for one in values)


def others(evaluated: Evaluated) -> list[str]:
    """Further figures, the main one under other settings, and its mean over seeds."""
    result, main = evaluated.result, evaluated.figure
    found = []
    for key, measured in list(result.figures.items())[1:]:
        figure = evaluated.declared(key)
        found.append(f"{figure.title}: {figure.text(measured.value)}")
    found += [f"{name}: {main.number(one['mean'])} ± {main.text(one['std'])}" for name, one in result.tries.items()]
    found += [f"{name}: {main.text(value)}" for name, value in result.other.items()]
    found += [f"on {test.data['test']}: {main.text(test.main.value)}" for test in result.tests if test.main]
    over = result.seeds
    if over:
        found.append(f"mean of {len(over['seed'])} seeds: {main.number(over['mean'])} ± {main.text(over['std'])}")
    if not main.higher_is_better:
        found.append("lower is better")
    return found


def best(view: View, photos: bool) -> dict[str, Any]:
    """Confusions and classes of the best evaluation of the run's network that has figures by class."""
    own = [one for one in view.run.results if view.run.is_own(one) and one.main and one.result.per_class]
    if not own:
        return {"best": None}
    evaluated = max(own, key=goodness)
    predictions = read_predictions(evaluated, view.run.problems)
    few = bool(predictions) and len({p.label for p in predictions}) <= NUMBERS
    drawn = evaluated.folder / CONFUSION
    found: dict[str, Any] = {
        "best": evaluated,
        "matrix": confusion(predictions) if few else None,
        "confusion": Picture(data_uri(drawn.read_bytes(), "image/png"), "Confusion matrix", "")
        if drawn.is_file()
        else None,
        "by_class": by_class(evaluated),
        "class_grids": [],
        "no_examples": "" if photos else NO_PHOTOS,
    }
    if photos:
        try:
            found["class_grids"] = class_examples(evaluated, predictions)
        except (UserError, OSError) as error:
            found["no_examples"] = f"the test images are not at hand: {error}"
    return found


def by_class(evaluated: Evaluated) -> Table:
    order = sorted(evaluated.result.per_class.items(), key=lambda item: -item[1]["accuracy"])
    rows = [
        [Cell(name), Cell(percent(found["accuracy"]), found["accuracy"], found["accuracy"]), Cell(f"{found['images']:,}", found["images"])]
        for name, found in order
    ]  # fmt: skip
    return Table("By class", "", ["class", "accuracy", "test images"], rows)
