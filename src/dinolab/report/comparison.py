"""Encoders side by side: what `dinolab eval all` compared, with the run's other results on the same images."""

import re

from dinolab.evals.comparison import Comparison
from dinolab.evals.comparison_table import cells, notes
from dinolab.evals.result import Result
from dinolab.options import COLUMNS
from dinolab.report.evaluated import rank
from dinolab.report.run import Run
from dinolab.report.tables import Cell, Table


def comparison_table(comparison: Comparison, run: Run) -> Table:
    """A row for each encoder, and a column for each evaluation."""
    whole = with_results_apart(comparison, run)
    (_, *headings), *lines = cells(whole)
    rows = [[Cell(line[0]), *(Cell(text.strip("-"), leading_number(text)) for text in line[1:])] for line in lines]
    return Table("Side by side", " ".join(notes(whole)), ["encoder", *headings], rows)


def with_results_apart(comparison: Comparison, run: Run) -> Comparison:
    """The comparison, extended by evaluations of the same images that the run's folder holds besides it.

    A job fine-tunes its network, for example, which `dinolab eval all` did not.
    """
    own: dict[str, Result] = {}
    others: dict[str, dict[str, Result]] = {}
    data = comparison.data
    for evaluated in run.results:
        result = evaluated.result
        same_images = all(result.data.get(key) == data.get(key) for key in ("train", *COLUMNS))
        same_images = same_images and data["test"] in (None, result.data.get("test"))
        if result.evaluation in comparison.evaluations or not same_images or not result.main:
            continue
        if run.is_own(evaluated):
            own.setdefault(result.evaluation, result)
        else:
            others.setdefault(result.evaluation, {}).setdefault(evaluated.encoder, result)
    for evaluation in sorted({*own, *others}, key=rank):
        comparison = comparison.extended(evaluation, own.get(evaluation), others.get(evaluation, {}))
    return comparison


def leading_number(text: str) -> float | None:
    found = re.match(r"-?[\d.,]*\d", text)
    return float(found[0].replace(",", "")) if found else None
