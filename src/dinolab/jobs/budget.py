"""The division of a job's time among its ways: how long each trains, from the pace of real steps."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import Any

from dinolab.data.sources import open_source, subset
from dinolab.options import Config
from dinolab.plan.forecast import time_evaluation, times_due
from dinolab.plan.pace import time_steps
from dinolab.runs.build import monitor_sources
from dinolab.runs.rig import Rig
from dinolab.training.phases import Phase

LEAST_EPOCHS = 1.0  # a way that would get fewer is left out
STEPS = 3  # that are timed
FEW = 32  # images of timed fine-tunings
RESERVE, LEAST_RESERVE = 0.05, 40.0  # for curves, table, video and report: share of the budget, and seconds at least


@dataclass(frozen=True)
class Pace:
    """How long a way takes. Times are seconds."""

    epoch: float
    fixed: float = 0.0  # whatever its length


def divide(seconds: float, shares: Mapping[str, float]) -> dict[str, float]:
    """Seconds for each way, in proportion to their shares."""
    whole = sum(shares.values())
    return {name: seconds * share / whole for name, share in shares.items()}


def epochs_in(seconds: float, pace: Pace) -> float:
    """Epochs that fit into this time, rounded down to whole ones from ten on and to tenths below."""
    epochs = max(0.0, seconds - pace.fixed) / pace.epoch
    return float(math.floor(epochs)) if epochs >= 10 else math.floor(10 * epochs) / 10


def fit(
    seconds: float, shares: Mapping[str, float], paces: Mapping[str, Pace], evaluations: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds for each way that fits into the time, and why others are left out.

    The way that comes shortest is left out first, and its share goes to the others.

    Args:
        seconds: for all of them.
        paces: of the ways whose pace is known.
        evaluations: seconds for the evaluation of each way, whose training gets the rest.
    """
    shares = dict(shares)
    left_out: dict[str, str] = {}
    while shares:
        parts = {name: part - evaluations[name] for name, part in divide(seconds, shares).items()}
        epochs = {name: epochs_in(part, paces[name]) for name, part in parts.items() if name in paces}
        none = {name: 0.0 for name, part in parts.items() if part <= 0}
        short = {name: n for name, n in (epochs | none).items() if n < LEAST_EPOCHS}
        if not short:
            return parts, left_out
        name = min(short, key=lambda name: (short[name], shares[name]))
        needed = evaluations[name] + (paces[name].epoch + paces[name].fixed if name in paces else 0)
        part = in_minutes(parts[name] + evaluations[name])
        left_out[name] = f"its part of the time is {part}, and an epoch with its evaluation takes {in_minutes(needed)}"
        del shares[name]
    return {}, left_out


def in_minutes(seconds: float) -> str:
    seconds = max(0.0, seconds)
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def training_pace(cfg: Config) -> Pace:
    """The pace of a training from a few of its steps, while the loader works, and from an evaluation of its k-NN."""
    source = open_source(cfg.data.path, cfg.data)
    began = time.perf_counter()
    phase = Phase(cfg, len(source))
    rig = Rig(phase, source)
    stream = rig.batches(rig.workers)
    built = time.perf_counter() - began
    step = mean(time_steps(rig, partial(next, stream), STEPS, settle=1)[0])
    del stream  # this ends its processes
    monitor = monitor_sources(cfg, source, lambda _: None)
    evaluations = 1 + times_due(phase, phase.steps(cfg.eval.every, "eval.every")) if monitor else 0
    evaluation = time_evaluation(rig, *monitor) if monitor else 0.0
    return Pace(step * phase.steps_per_epoch, built + evaluations * evaluation)


def finetuning_pace(encoder: Any, train: str, test: str, evaluation: str, how: Mapping[str, Any]) -> Pace:
    """The pace of an evaluation that trains an encoder with labels, from short ones of few images.

    Args:
        train, test: labelled images.
        evaluation: its name.
        how: options of the evaluation.
    """
    from dinolab.evals.evaluate import evaluate

    sources = open_source(train, need_labels=True), open_source(test, need_labels=True)
    few = subset(sources[1], 8, seed=0)

    def seconds_of(images: int, epochs: int) -> float:
        part = subset(sources[0], images, seed=0)
        began = time.perf_counter()
        evaluate(evaluation, encoder, part, few, epochs=epochs, **{**how, "cache": "none", "progress": False})
        return time.perf_counter() - began

    once, thrice, twice_as_many = seconds_of(FEW, 1), seconds_of(FEW, 3), seconds_of(2 * FEW, 1)
    image = max(thrice - once, 1e-6) / (2 * FEW)  # of an epoch
    reading = max(0.0, twice_as_many - once) / FEW - image  # of an image, once
    start = max(0.0, 2 * once - twice_as_many)
    return Pace(image * len(sources[0]), start + max(0.0, reading) * (len(sources[0]) + len(sources[1])))
