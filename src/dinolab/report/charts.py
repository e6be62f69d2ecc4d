"""Line charts as inline SVG, in the page's own colours and type, so that they are right on light, dark and paper."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 24  # margins
POINTS = 200  # of a curve: beyond, least and greatest of each stretch are drawn
DOTS = 30  # points up to which each is marked


class Line(NamedTuple):
    label: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


class Chart(NamedTuple):
    """A figure: the legend has a label and a number of the page's colours for each line."""

    title: str
    legend: list[tuple[str, int]]
    svg: Markup


class Axis(NamedTuple):
    """Values to places from `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float
    log: bool
    ticks: list[float]

    def __call__(self, value: float) -> float:
        value, low, high = (math.log(v) if self.log else v for v in (value, self.low, self.high))
        return self.begin + (value - low) / ((high - low) or 1) * (self.end - self.begin)


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    log_x: bool = False,
    log_y: bool = False,
    zero: bool = False,
    percent: bool = False,
    x_name: str = "step",
) -> Chart | None:
    """Lines in one panel; None if there is no point in any. `zero` shows the axis from 0, `percent` shows 0.5 as 50%."""
    shown = [
        (n, line) for n, line in enumerate(lines) if len(line.x)
    ]  # a line's number is its colour, whatever is missing
    if not shown:
        return None
    xs, ys = [v for _, line in shown for v in line.x], [v for _, line in shown for v in line.y]
    log_x, log_y = log_x and min(xs) > 0, log_y and min(ys) > 0
    across = horizontal(xs, log_x)
    up = vertical(ys, log_y, zero)
    parts = [*grid(across, up, percent), *(draw(line, n, across, up) for n, line in shown)]
    words = "; ".join(f"{line.label} from {line.y[0]:.4g} to {line.y[-1]:.4g}" for _, line in shown)
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, f"{title}, by {x_name}: {words}", Markup("").join(parts)
    )
    return Chart(title, [(line.label, n) for n, line in shown], svg)


def horizontal(values: Sequence[float], log: bool) -> Axis:
    """From the first to the last; a logarithmic one is marked where its points are."""
    low, high = min(values), max(values)
    if log:
        return Axis(low, high, LEFT, WIDTH - RIGHT, low < high, sorted(set(values)))
    return Axis(low, high, LEFT, WIDTH - RIGHT, False, [t for t in round_numbers(low, high) if low <= t <= high])


def vertical(values: Sequence[float], log: bool, zero: bool) -> Axis:
    """With room above and below, to the next round number."""
    low, high = min(values), max(values)
    log = log and low < high
    if zero or low == high:
        low, high = min(low, 0.0), max(high, 0.0)
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [sub * 10.0**decade for decade in decades for sub in (1, 2, 5)]
        if sum(low <= t <= high for t in ticks) > 1:
            return Axis(low, high, HEIGHT - BOTTOM, TOP, True, [t for t in ticks if low <= t <= high])
    ticks = round_numbers(low, high)
    return Axis(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP, False, ticks)


def round_numbers(low: float, high: float) -> list[float]:
    """A few that enclose both."""
    if low == high:
        low, high = low - 1, high + 1
    return [float(tick) for tick in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]


def grid(across: Axis, up: Axis, percent: bool) -> list[Markup]:
    parts = []
    for tick in up.ticks:
        text = f"{100 * tick:g}%" if percent else short(tick)
        parts.append(
            Markup('<path class="grid" d="M{} {:.1f}H{}"/><text x="{}" y="{:.1f}" class="up">{}</text>').format(
                LEFT, up(tick), WIDTH - RIGHT, LEFT - 5, up(tick) + 3.5, text
            )
        )
    for tick in across.ticks:
        parts.append(
            Markup('<text x="{:.1f}" y="{}" class="across">{}</text>').format(across(tick), HEIGHT - 7, short(tick))
        )
    return parts


def draw(line: Line, number: int, across: Axis, up: Axis) -> Markup:
    places = [(across(x), up(y)) for x, y in thin(list(zip(line.x, line.y)))]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = (
        Markup("").join(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.4"/>').format(*place) for place in places)
        if len(places) <= DOTS
        else Markup("")
    )
    return Markup('<g class="line c{}{}"><polyline points="{}"/>{}</g>').format(
        number, " dashed" if line.dashed else "", path, dots
    )


def thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about POINTS of them: the least and the greatest of each stretch, so that no spike is lost."""
    if len(points) <= POINTS:
        return points
    stretch = math.ceil(2 * len(points) / POINTS)
    kept = [points[0]]
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return [*kept, points[-1]]


def short(value: float) -> str:
    """12,000 as 12k, 0.0005 as 5e-4."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    for size, sign in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if sign == 'k' else size):g}{sign}"
    return f"{value:.6g}"
