"""How a value changes over a phase of a run: functions of the step, counted from the phase's first."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

Schedule = Callable[[int], float]


class Freeze(NamedTuple):
    """How long a part of the student is held fixed at the start of a phase, and by what.

    "gradient": it gets no gradient, and the optimizer skips it. "lr": its learning rate is 0; its gradient counts in the
    clipping, and the optimizer's moments run on.
    """

    steps: int
    by: str = "gradient"


class Phase(Protocol):
    """The parts of a phase that its schedules depend on."""

    @property
    def total(self) -> int:
        """Steps of the phase."""
        ...

    def steps(self, text: str, option: str) -> int:
        """A duration ("10 epochs", "500 steps", "10%") as a number of steps, at most all of the phase."""
        ...


def cosine(start: float, end: float, step: int, steps: int) -> float:
    """Half a cosine from `start` at step 0 to `end` at the last of `steps`."""
    done = step / max(1, steps - 1)
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def ramp(start: float, end: float, step: int, steps: int) -> float:
    """A straight line from `start` at step 0 to `end` at step `steps`, and `end` from there on."""
    done = min(1.0, step / steps) if steps else 1.0
    return start + done * (end - start)
