"""A plan as text: the time and memory of the run, the limit of its speed, and advice, each with the figure behind it."""

import math
import re
import shlex

from dinolab.data.loader import WAITING
from dinolab.errors import UserError
from dinolab.methods import METHODS
from dinolab.plan.forecast import Plan

DECODES = 0.5  # share of the loader's time spent on decoding, from which smaller files help
LARGER = 1.25  # short side over the needed side, from which smaller files help
UNEVEN = 1.25  # upper over lower quartile of a step's speed, from which the forecast is doubtful
UNITS = {"s": 1, "min": 60, "h": 3600, "day": 86400, "days": 86400}  # of a time that a user gives, in seconds
LEAST = 60.0  # seconds that such a time may be
FULL = 0.9  # share of the memory, from which a run may fail later


def words(plan: Plan) -> str:
    """Return the plan as text, with a line for each figure."""
    lines = [plan.run]
    if prepares := METHODS[plan.cfg.method].PREPARES:
        lines.append(prepares)
    if plan.then:
        lines.append(line("Total", duration(plan.total_seconds)))
    lines += phase_words(plan)
    if plan.then:
        size = plan.then.cfg.views.global_size
        lines += [f"then {plan.then.steps:,} steps with crops of {size} pixels (highres)", *phase_words(plan.then)]
    lines += [
        line("Advice" if n == 0 else "", text)
        for n, text in enumerate(advice(plan) or ["none follows from these figures"])
    ]
    return "\n".join(lines)


def phase_words(plan: Plan) -> list[str]:
    """Return the lines on one phase."""
    batch, (low, mid, high) = plan.cfg.optim.batch_size, plan.pace.images_per_s
    lines = [
        line("Time", duration(plan.phase_seconds)),
        line("", f"steps        {times(plan.steps, plan.seconds_per_step)}"),
        line("", f"evaluations  {times(plan.evaluations, plan.evaluation_seconds)}") if plan.evaluations else "",
        line("", f"checkpoints  {times(plan.checkpoints, plan.checkpoint_seconds)}"),
        line(
            "Speed",
            f"{mid:.4g} images/s (median of {plan.pace.measured_steps} steps; middle half {low:.4g} to {high:.4g})",
        ),
        line("", f"loader alone {batch / plan.pace.loader_seconds:.4g} images/s, run.workers={plan.workers}"),
        line("", f"step alone   {batch / plan.pace.step_seconds:.4g} images/s, on {plan.device}"),
        line("Limit", f"the {plan.pace.limit}; {plan.pace.data_wait:.0%} of the time is spent waiting for images"),
        *(line("Memory" if n == 0 else "", text) for n, text in enumerate(memory_words(plan))),
    ]
    return list(filter(None, lines))


def line(head: str, text: str) -> str:
    """Put a heading, or nothing, before a text, so that all texts begin in one column."""
    return f"{head:8} {text}"


def times(number: int, seconds: float) -> str:
    """Return a duration with the number and the seconds whose product it is."""
    return f"{duration(number * seconds)} ({number:,} x {seconds:.3g} s)"


def memory_words(plan: Plan) -> list[str]:
    """Return the lines on memory."""
    memory = plan.memory
    if memory is None:
        return ["not measured"]
    found = [f"{gigabytes(memory.peak)} at the peak of a step, of {gigabytes(memory.room)} available"]
    if memory.per_image:
        how = "tried" if memory.tried else "predicted, not tried"
        if memory.largest < memory.searched:
            found.append(f"{memory.option}={memory.largest} is the largest that fits ({how})")
        elif plan.cfg.run.micro_batch:
            found.append(f"{memory.option}={memory.largest}, the whole batch at once, fits ({how})")
        else:
            found.append(f"{memory.option}={memory.largest} fits ({how}); larger batches were not considered")
    return found


def advice(plan: Plan) -> list[str]:
    """Return sentences on what to change, the most useful first. Each follows from a figure of the plan."""
    later = [f"for highres: {text}" for text in advice(plan.then)] if plan.then else []
    return [*loader_advice(plan), *device_advice(plan), *doubts(plan), *later]


def loader_advice(plan: Plan) -> list[str]:
    """Return advice on the loader, where the step waits for images or shares its cores with the loader."""
    pace, reading, found = plan.pace, plan.reading, []
    waits = pace.data_wait > WAITING
    shares = plan.device == "cpu" and pace.together_seconds > (1 + WAITING) * pace.step_seconds
    slower = pace.loader_seconds / pace.step_seconds
    enough = min(plan.cores, max(plan.workers + 1, math.ceil(plan.workers * slower)))
    if waits and slower > 1 and enough > plan.workers:
        found.append(
            f"run.workers={enough}: with run.workers={plan.workers} on {plan.cores} cores, the loader takes {slower:.2g} times as long "
            "as the step"
        )
    too_large = reading.short_side >= LARGER * plan.needed_side > 0
    if (waits or shares) and reading.decode_share >= DECODES and too_large:
        found.append(
            f"dinolab data pack {shlex.quote(plan.cfg.data.path)} OUT short_side={plan.needed_side}: {reading.decode_share:.0%} of the "
            f"loader's time is reading and decoding images of {reading.short_side} pixels, and no crop needs more than {plan.needed_side}"
        )
    movable = plan.device != "cpu" and not plan.device_views and not plan.cfg.views.distorted
    if waits and movable and reading.decode_share < 1 - WAITING:
        found.append(
            f"run.device_views=always: {1 - reading.decode_share:.0%} of the loader's time is cropping, which the GPU can do"
        )
    return found


def device_advice(plan: Plan) -> list[str]:
    """Return advice on precision and memory."""
    pace, memory, found = plan.pace, plan.memory, []
    if plan.bf16_step_seconds and plan.bf16_step_seconds < pace.step_seconds:
        found.append(
            f"run.precision=bf16: a step took {plan.bf16_step_seconds:.3g} s instead of {pace.step_seconds:.3g} s"
        )
    if memory and memory.peak > FULL * memory.room:
        found.append(
            f"a smaller {memory.option}: a step takes {memory.peak / memory.room:.0%} of the available memory, which leaves "
            "little for anything else on the machine"
        )
    return found


def doubts(plan: Plan) -> list[str]:
    """Return a warning where the steps' speed varies so much that the forecast is doubtful."""
    low, _, high = plan.pace.images_per_s
    if plan.pace.limit == "loader" or high < UNEVEN * low:  # a slow loader delivers several batches at once
        return []
    return [
        f"plan again while nothing else runs on the machine: half of the steps were outside {low:.4g} to {high:.4g} images/s, so "
        "something else may slow it down"
    ]


def duration(seconds: float) -> str:
    """Write a duration as 12.3 s, 4 min 10 s, 3 h 20 min or 2 days 4 h."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    for name, unit, below, finer in (
        ("min", 60, 5400, "s"),
        ("h", 3600, 172800, "min"),
        ("days", 86400, math.inf, "h"),
    ):
        small = {"s": 1, "min": 60, "h": 3600}[finer]
        rounded = round(seconds / small) * small
        if rounded < below:
            return f"{rounded // unit} {name} {rounded % unit // small} {finer}"
    raise AssertionError


def parse_time(text: str, option: str) -> float:
    """Seconds from "90s", "20min", "1.5h", "2 days" or several of them as in "1h 30min". Raises UserError for another text."""
    parts = re.findall(r"\s*(\d+(?:\.\d+)?)\s*(days?|h|min|s)(?=[\s\d]|$)", text[:80].lower())
    whole = re.fullmatch(r"(\s*\d+(?:\.\d+)?\s*(days?|h|min|s)(?=[\s\d]|$))+\s*", text[:80].lower())
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not whole or not LEAST <= seconds <= 1e8:
        raise UserError(f"{option}={text[:80]}: not a time of a minute or more; write 20min, 1h or 1h30min")
    return seconds


def gigabytes(n: float) -> str:
    """Write a number of bytes in GB."""
    return f"{n / 1e9:.1f} GB"
