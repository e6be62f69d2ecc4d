"""Encoders side by side: what `dinolab eval all` compared, with the run's other results on the same images."""

import re
from dataclasses import replace
from pathlib import Path

from dinolab.evals import EVALS
from dinolab.evals.comparison import Comparison
from dinolab.evals.comparison_table import cells, main_figure, notes
from dinolab.options import COLUMNS
from dinolab.report.evaluated import OWN, Evaluated, own_settings, rank
from dinolab.report.run import Run
from dinolab.report.tables import Cell, Table


def comparison_table(comparison: Comparison, run: Run) -> Table:
    """A row for each encoder, and a column for each evaluation, under the names that the rest of the page gives them."""
    whole = with_results_apart(comparison, run)
    if any(run.is_own(evaluated) for evaluated in run.results):
        own = own_name(whole, run)
        whole = replace(whole, encoders=[replace(row, name=OWN) if row.name == own else row for row in whole.encoders])
    _, *lines = cells(whole)
    shown = [[Cell(line[0]), *(Cell(text.strip("-"), leading_number(text)) for text in line[1:])] for line in lines]
    headings = ["encoder", *map(heading, whole.evaluations), "images/s"]
    return Table("Side by side", " ".join(notes(whole)), headings, shown)


def heading(column: str) -> str:
    """The title of an evaluation with the unit of its main figure; behind it the data set, where the column names one."""
    name, _, data = column.partition(":")
    figure, title = main_figure(name), EVALS[name].title if name in EVALS else name
    words = [title, f"on {data}" if data else "", "" if figure.higher_is_better else "(lower is better)"]
    return " ".join(filter(None, words)) + (f", {figure.unit}" if figure.unit else "")


def with_results_apart(comparison: Comparison, run: Run) -> Comparison:
    """The comparison, extended by results on the same images that the run's folder holds besides it.

    A job fine-tunes its network, for example, which `dinolab eval all` did not; and a later comparison in the same folder may
    have left out encoders that an earlier one had.
    """
    whole = comparison
    for evaluated in sorted(run.results, key=lambda one: rank(one.result.evaluation)):
        if belongs(evaluated, comparison):
            name = own_name(comparison, run) if run.is_own(evaluated) else evaluated.encoder
            whole = whole.extended(name, evaluated.result)
    return whole


def own_name(comparison: Comparison, run: Run) -> str:
    """The run's name in a comparison that it takes part in; it is the first where the folder has moved since."""
    here = run.path.resolve()
    return next(
        (row.name for row in comparison.encoders if Path(row.encoder).resolve() == here), comparison.encoders[0].name
    )


def belongs(evaluated: Evaluated, comparison: Comparison) -> bool:
    """Whether a result has a figure, and was measured on the images and with the settings of the comparison."""
    result, data = evaluated.result, comparison.data
    entries = [row.results.get(result.evaluation) for row in comparison.encoders]
    there = [Evaluated(Path(), entry.result) for entry in entries if entry and entry.result]
    return (
        result.main is not None
        and all(result.data.get(key) == data.get(key) for key in ("train", *COLUMNS))
        and data["test"] in (None, result.data.get("test"))
        and all(own_settings(one) == own_settings(evaluated) for one in there)
    )


def leading_number(text: str) -> float | None:
    found = re.match(r"-?[\d.,]*\d", text)
    return float(found[0].replace(",", "")) if found else None
