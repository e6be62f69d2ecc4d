"""A result of an evaluation as the report shows it: with its folder, and with what its evaluation declares of its figures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinolab.evals import EVALS
from dinolab.evals.contract import Evaluation, EvaluationOptions, Figure
from dinolab.evals.earlier import read_result
from dinolab.evals.result import Json, Measured, Result
from dinolab.fields import options
from dinolab.rundir import PREDICTIONS

OWN = "this run"  # what tables call the run's network
ACCURACY = "accuracy"  # title of the figure that needs no name beside its evaluation


@dataclass(frozen=True)
class Evaluated:
    """One result and the folder that holds it."""

    folder: Path
    result: Result

    @property
    def evaluation(self) -> Evaluation | None:
        """None where this dinolab has no such evaluation."""
        return EVALS.get(self.result.evaluation)

    @property
    def title(self) -> str:
        return self.evaluation.title if self.evaluation else self.result.evaluation

    @property
    def about(self) -> str:
        """A sentence about what the evaluation measures; empty where this dinolab does not know it."""
        return self.evaluation.about if self.evaluation else ""

    @property
    def encoder(self) -> str:
        return str(self.result.encoder.get("name", "?"))

    @property
    def info(self) -> Json:
        """How the encoder was made, from its model card."""
        found = self.result.encoder.get("info")
        return found if isinstance(found, dict) else {}

    @property
    def is_untrained(self) -> bool:
        """Whether the encoder began the evaluation with its initial weights."""
        return "untrained" in self.info

    @property
    def main(self) -> Measured | None:
        return self.result.main

    @property
    def figure(self) -> Figure:
        """Declaration of the main figure."""
        return self.declared(next(iter(self.result.figures), ""))

    @property
    def predictions(self) -> Path:
        return self.folder / PREDICTIONS

    @property
    def identity(self) -> str:
        """The same text for two files that hold the same result."""
        found = self.result
        parts = [self.info or self.encoder, found.evaluation, found.settings, found.data, found.seed]
        figures = {key: measured.value for key, measured in found.figures.items()}
        return json.dumps([*parts, figures], sort_keys=True, default=str)

    def declared(self, key: str) -> Figure:
        """The evaluation's declaration of a figure; where it declares none, one that repeats the key."""
        figures = self.evaluation.FIGURES if self.evaluation else ()
        return next((figure for figure in figures if figure.key == key), Figure(key, key.replace("_", " "), unit=""))


def read_evaluated(file: Path) -> Evaluated:
    """Raises UserError for what is no result of an evaluation."""
    return Evaluated(file.parent, read_result(file))


def rank(evaluation: str) -> int:
    """Position of an evaluation in EVALS; unknown ones come last."""
    names = list(EVALS)
    return names.index(evaluation) if evaluation in names else len(names)


def goodness(evaluated: Evaluated) -> float:
    """A number that is larger for a better main figure; least without one."""
    if evaluated.main is None:
        return float("-inf")
    return evaluated.main.value if evaluated.figure.higher_is_better else -evaluated.main.value


def between(interval: Sequence[float], figure: Figure) -> str:
    """An interval without its unit, such as "70.1 to 80.2"."""
    return " to ".join(figure.number(end) for end in interval)


def own_settings(evaluated: Evaluated) -> Json:
    """The settings that are options of this evaluation alone."""
    if not evaluated.evaluation:
        return {}
    shared = {name for name, _ in options(EvaluationOptions)}
    names = [name for name, _ in options(evaluated.evaluation.Options) if name not in shared]
    return {name: evaluated.result.settings[name] for name in names if name in evaluated.result.settings}


def setting(value: Any) -> str:
    """A setting as text; sizes of two sides as 224 or 224x336."""
    if isinstance(value, list | tuple):
        sides = list(dict.fromkeys(value)) if len(value) == 2 else value
        return "x".join(map(str, sides))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
