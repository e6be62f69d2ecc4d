"""Whether the training without labels helped: the run's network against others on the same test images."""

import math
from typing import NamedTuple

from dinolab.evals.contract import Figure
from dinolab.evals.scores import paired_difference
from dinolab.options import COLUMNS
from dinolab.report.evaluated import Evaluated, between, own_settings, rank
from dinolab.report.predictions import read_predictions
from dinolab.report.run import Run

SAME = ("train", "test", "split", "train_images", "test_images", *COLUMNS)  # of the data, where figures can be compared
PIXELS = "pixels"  # name of the encoder that returns the pixels themselves


class Difference(NamedTuple):
    """By how much the first of two figures is larger, and the 95% interval of that."""

    value: float
    low: float
    high: float


def verdict(run: Run) -> str:
    """A short paragraph; empty where there is nothing to compare with.

    It is about the evaluation that most others were measured by, too; among several, the first in EVALS.
    """
    own = [one for one in run.results if run.is_own(one) and one.main and one.main.interval]
    found = [(one, rivals(run, one)) for one in sorted(own, key=lambda one: rank(one.result.evaluation))]
    evaluated, others = max(found, key=lambda pair: len(pair[1]), default=(None, {}))
    if evaluated is None or not evaluated.main or not evaluated.main.interval or not others:
        return ""
    figure = evaluated.figure
    value = f"{figure.text(evaluated.main.value)} (95% interval {between(evaluated.main.interval, figure)})"
    sentences = " ".join(sentence(evaluated, other, name, run.problems) for name, other in others.items())
    return (
        f"Its {figure.title} by {evaluated.title} is {value}. {sentences} "
        "The intervals are over test images; another training would differ, too."
    )


def rivals(run: Run, own: Evaluated) -> dict[str, Evaluated]:
    """The untrained network, raw pixels, and the untrained network trained with labels, as far as they were evaluated."""
    others = [one for one in run.results if not run.is_own(one) and can_be_compared(own, one)]
    alike = [
        one
        for one in others
        if one.result.evaluation == own.result.evaluation and own_settings(own) == own_settings(one)
    ]
    trained = [one for one in others if one.is_untrained and getattr(one.evaluation, "trains_encoder", False)]
    found = {
        "the untrained network": [one for one in alike if one.is_untrained and one not in trained],
        "raw pixels": [one for one in alike if one.encoder == PIXELS],
    }
    found |= {f"the same network trained with labels{for_epochs(one)}": [one] for one in trained[:1]}
    return {name: results[0] for name, results in found.items() if results}


def can_be_compared(own: Evaluated, other: Evaluated) -> bool:
    """Whether both have the same main figure, with an interval, of the same data."""
    same_data = all(own.result.data.get(key) == other.result.data.get(key) for key in SAME)
    has_interval = other.main is not None and other.main.interval is not None
    return same_data and has_interval and (own.figure.key, own.figure.unit) == (other.figure.key, other.figure.unit)


def for_epochs(evaluated: Evaluated) -> str:
    epochs = evaluated.result.settings.get("epochs")
    return f", {epochs} epochs" if epochs else ""


def sentence(own: Evaluated, other: Evaluated, name: str, problems: list[str]) -> str:
    figure, difference = own.figure, differ(own, other, problems)
    if difference.low <= 0 <= difference.high:
        word = f"no clear difference on these {own.result.data.get('test_images', 0):,} test images"
    else:
        word = "better" if (difference.value > 0) == figure.higher_is_better else "worse"
    unit = "points" if figure.unit == "%" else figure.unit
    value = f"{'+' if difference.value > 0 else ''}{signed(difference.value, figure)} {unit}".strip()
    interval = " to ".join(signed(end, figure) for end in difference[1:])
    return f"Against {name}: {word} ({value}, {interval})."


def signed(value: float, figure: Figure) -> str:
    text = figure.number(value)
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def differ(own: Evaluated, other: Evaluated, problems: list[str]) -> Difference:
    """How much larger the main figure of `own` is, and the 95% interval of that.

    Where both figures are accuracies and the predictions of both are there, image by image, the interval is that of paired
    shares. Without predictions it is made of the two figures' intervals, as if the test images were not the same (Newcombe 1998).
    """
    assert own.main and other.main and own.main.interval and other.main.interval
    mine, theirs = right_images(own, problems), right_images(other, problems)
    if mine and mine.keys() == theirs.keys():
        only_mine = sum(right and not theirs[image] for image, right in mine.items())
        only_theirs = sum(right and not mine[image] for image, right in theirs.items())
        value, (low, high) = paired_difference(only_mine, only_theirs, len(mine))
        return Difference(value, low, high)
    more = own.main.value - other.main.value
    down = math.hypot(own.main.value - own.main.interval[0], other.main.interval[1] - other.main.value)
    up = math.hypot(own.main.interval[1] - own.main.value, other.main.value - other.main.interval[0])
    return Difference(more, more - down, more + up)


def right_images(evaluated: Evaluated, problems: list[str]) -> dict[tuple[str, str], bool]:
    """Which test images were predicted right; empty where that is unknown, or the main figure is not the share of them."""
    right = {(p.name, p.label): p.label == p.predicted for p in read_predictions(evaluated, problems)}
    is_share = right and evaluated.main and math.isclose(sum(right.values()) / len(right), evaluated.main.value)
    return right if is_share else {}
