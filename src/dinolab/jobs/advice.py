"""The recommendation of a job, in words that follow from its figures by fixed rules.

1. The best way is the one with the highest accuracy on the test images.
2. A way is as good as the best where the interval of their paired difference holds 0: no difference can be shown.
3. Of the best way and those as good as it, the one whose network takes the least time for an image is recommended. Speeds within
   `ALIKE` of each other count as equal; then the one that took less processor time to make is recommended.
4. What more labels would give is said only from the learning curve, and called an extrapolation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dinolab.evals.result import Measured

if TYPE_CHECKING:
    from dinolab.jobs.figures import WayFigures

ALIKE = 1.15  # the factor between two speeds up to which they count as equal
MOST = 1000  # times the labels; beyond that a line says nothing

Differ = Callable[[dict[str, bool], dict[str, bool]], Measured]


def recommend(
    rows: Sequence["WayFigures"], curves: Mapping[str, Sequence[dict[str, Any]]], differ: Differ
) -> tuple["WayFigures", list[str]]:
    """The way to take, and sentences on why.

    Args:
        rows: figures of the ways; the first is that which the others are compared with.
        curves: points of the learning curve of each way that has one.
        differ: the difference of two accuracies from which images each predicted right.
    """
    best = max(rows, key=lambda one: one.accuracy.value)
    apart = {one.name: differ(best.right, one.right) for one in rows if one is not best}
    as_good = [one for one in rows if one is best or holds_zero(apart[one.name])]
    taken = cheapest(as_good)
    sentences = [f"Take {taken.name} ({taken.title}): {in_words(taken.accuracy)}{cost(taken, rows[0])}."]
    others = [one for one in as_good if one is not taken]
    if others:
        compared = [
            one for one in as_good if one is not best
        ]  # with the best one, which may not be the one that is taken
        listed = ", ".join(f"{one.name} ({in_words(one.accuracy)})" for one in compared)
        why = "takes less time for an image" if is_faster(taken, others) else "took less processor time to make"
        sentences.append(
            f"No difference can be shown between the most accurate way, {best.name} ({in_words(best.accuracy)}), and {listed} on these "
            f"test images; {taken.name} {why}."
        )
    sentences += [worse(one, best, apart[one.name], curves) for one in rows if one not in as_good]
    return taken, sentences


def holds_zero(found: Measured) -> bool:
    assert found.interval
    return found.interval[0] <= 0 <= found.interval[1]


def cheapest(rows: Sequence["WayFigures"]) -> "WayFigures":
    """The one whose network is the fastest; of those about as fast, the one that took the least processor time."""
    fastest = max(one.images_per_s or 0.0 for one in rows)
    quick = [one for one in rows if (one.images_per_s or 0.0) * ALIKE >= fastest]
    return min(quick, key=lambda one: one.cpu_hours)


def is_faster(taken: "WayFigures", others: Sequence["WayFigures"]) -> bool:
    return all((taken.images_per_s or 0.0) > ALIKE * (one.images_per_s or 0.0) for one in others)


def in_words(found: Measured) -> str:
    """61.2 % (58.0 to 64.1)"""
    interval = f" ({100 * found.interval[0]:.1f} to {100 * found.interval[1]:.1f})" if found.interval else ""
    return f"{100 * found.value:.1f} %{interval}"


def cost(one: "WayFigures", first: "WayFigures") -> str:
    """What an image costs against the first way; empty where that is about as much, or unknown."""
    if one is first or not one.images_per_s or not first.images_per_s:
        return ""
    factor = one.images_per_s / first.images_per_s
    if 1 / ALIKE <= factor <= ALIKE:
        return f", for about the time per image of {first.name}"
    return (
        f", {factor:.1f} times the images per second of {first.name}"
        if factor > 1
        else (f", {1 / factor:.1f} times the time per image of {first.name}")
    )


def worse(
    one: "WayFigures", best: "WayFigures", apart: Measured, curves: Mapping[str, Sequence[dict[str, Any]]]
) -> str:
    """A sentence on a way that is worse than the best one."""
    assert apart.interval
    low, high = (100 * end for end in apart.interval)
    text = (
        f"{one.name} ({one.title}) gave {in_words(one.accuracy)}, {100 * apart.value:.1f} points less than {best.name} "
        f"({low:.1f} to {high:.1f})"
    )
    factor = labels_needed(curves[one.name], best.accuracy.value) if one.name in curves else None
    if factor is None:
        return f"{text}."
    if factor > MOST:
        return f"{text}; extrapolated from its learning curve, more than {MOST:,} times the labels would not close that gap."
    times = f"{float(f'{factor:.1g}'):,.0f}" if factor >= 10 else f"{factor:.1f}"
    return f"{text}; extrapolated from its learning curve, it would need about {times} times the labels or more."


def labels_needed(points: Sequence[dict[str, Any]], accuracy: float) -> float | None:
    """How many times the labels it would take to reach an accuracy, on a line through accuracy over the logarithm of the labels.

    The line is that of least squares through the points. This is an extrapolation: curves flatten, so it is a lower limit at best.

    Returns:
        The factor on the labels of the last point; None where the curve does not rise, or there are not two points.
    """
    x = np.log([point["labels"] for point in points])
    if len(set(x.tolist())) < 2:
        return None
    slope = float(np.polyfit(x, [point["accuracy"] for point in points], 1)[0])
    missing = accuracy - points[-1]["accuracy"]
    if slope < 1e-9 or missing <= 0:
        return None
    return math.exp(min(missing / slope, 700))
