"""Main figures of evaluations as bars, and over parameters and throughput (as figure 5 of DINO, figure 2 of DINOv2), as PNG."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from dinolab.evals.comparison import Row
from dinolab.evals.contract import Evaluation, Figure
from dinolab.plotting import COLOURS, MARKERS, fit_fonts, new_figure, open_frame, readable, save

DPI = 200
BAR = 0.26  # inches
LONGEST = 40  # characters of a name
# Where a point's name may stand, best first: offset in points, and how it is aligned.
PLACES = [
    (x, y, {1: "left", -1: "right", 0: "center"}[(x > 0) - (x < 0)], {1: "bottom", -1: "top", 0: "center"}[(y > 0) - (y < 0)])
    for x, y in ((9, 0), (-9, 0), (0, 10), (0, -10), (9, 9), (-9, 9), (9, -9), (-9, -9), (9, 22), (-9, 22), (9, -22), (-9, -22))
]  # fmt: skip


def shown(row: Row, evaluation: str, figure: Figure) -> tuple[float, float, float] | None:
    """The main figure as it is shown and the ends of its interval; None without a result."""
    entry = row.results.get(evaluation)
    if not entry or not entry.result or not entry.result.main:
        return None
    found = entry.result.main
    low, high = found.interval or (found.value, found.value)
    return figure.scale * found.value, figure.scale * low, figure.scale * high


def draw_figures(rows: Sequence[Row], evaluations: Mapping[str, Evaluation], title: str, out: Path) -> None:
    """A group of bars for each encoder, a bar for each evaluation, with 95 % intervals; a panel for each kind of figure."""
    found = {name: evaluation.main for name, evaluation in evaluations.items()}
    rows = [row for row in rows if any(shown(row, name, figure) for name, figure in found.items())]
    kinds = [
        list(group)
        for _, group in groupby(sorted(found, key=lambda n: axis_title(found[n])), lambda n: axis_title(found[n]))
    ]
    kinds.sort(key=lambda names: list(found).index(names[0]))
    heights = [BAR * (len(names) + 0.8) * len(rows) + 0.8 for names in kinds]
    figure = new_figure(8, sum(heights) + 0.7)
    panels = figure.subplots(len(kinds), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(found)}
    for axes, names in zip(panels, kinds):
        draw_bars(axes, rows, {name: found[name] for name in names}, colours)
    panels[0].set_title(title, loc="left", fontsize=12, parse_math=False)
    if len(evaluations) > 1:
        figure.legend(loc="outside lower left", ncols=len(evaluations), frameon=False, fontsize=9)
    save(figure, out, DPI)


def axis_title(figure: Figure) -> str:
    """accuracy in %"""
    direction = "" if figure.higher_is_better else " (lower is better)"
    return (f"{figure.title} in {figure.unit}" if figure.unit else figure.title) + direction


def draw_bars(axes: Axes, rows: Sequence[Row], found: Mapping[str, Figure], colours: Mapping[str, str]) -> None:
    """The bars of evaluations with the same kind of figure."""
    drawn = [s for row in rows for name, figure in found.items() if (s := shown(row, name, figure))]
    highest = max((high for _, _, high in drawn), default=0)
    thick = 0.8 / len(found)
    for n, (name, figure) in enumerate(found.items()):
        bars = [(place, s) for place, row in enumerate(rows) if (s := shown(row, name, figure))]
        places = [place + 0.8 * ((n + 0.5) / len(found) - 0.5) for place, _ in bars]
        values = [value for _, (value, _, _) in bars]
        errors = [[value - low for _, (value, low, _) in bars], [high - value for _, (value, _, high) in bars]]
        axes.barh(
            places, values, 0.92 * thick, color=colours[name], label=name, xerr=errors,
            error_kw={"elinewidth": 1, "ecolor": "0.2"},
        )  # fmt: skip
        for place, (value, _, high) in zip(places, (s for _, s in bars)):
            axes.text(high + 0.012 * highest, place, f"{value:.1f}", va="center", fontsize=8, color="0.2")
    axes.set_yticks(range(len(rows)), [shorten(readable(row.name)) for row in rows], fontsize=10, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * highest or 1)  # with room for the figures
    axes.margins(y=0.02)
    has_intervals = any(low < high for _, low, high in drawn)
    interval = ", with its 95 % interval over test images" if has_intervals else ""
    axes.set_xlabel(axis_title(next(iter(found.values()))) + interval)
    open_frame(axes, "x")


class Point(NamedTuple):
    """A published figure of a network."""

    parameters: float | None
    images_per_s: float | None
    value: float  # as it is shown
    about: str = ""  # on which data and hardware


Published = Callable[[Figure], Sequence[Point]]  # the published points of a figure, none where there are no such


def draw_scaling(
    rows: Sequence[Row],
    evaluations: Mapping[str, Evaluation],
    title: str,
    out: Path,
    published: Published | None = None,
) -> None:
    """Main figures over parameters and over images/s, on log axes: a row of panels for each evaluation, a point for each encoder.

    Encoders are left out where they have no result, no weights or no measured speed; evaluations, where all are.
    """
    kinds = {
        name: evaluation
        for name, evaluation in evaluations.items()
        if any(shown(row, name, evaluation.main) for row in rows)
    }
    at = next((row.throughput for row in rows if row.throughput), None)
    if not kinds or not at:
        return
    how = f"batches of {at['batch_size']}, {at['precision']} on {at['device']}"
    figure = new_figure(10, 3.4 * len(kinds) + 0.5)
    panels = figure.subplots(len(kinds), 2, squeeze=False)
    for (name, evaluation), pair in zip(kinds.items(), panels):
        main = evaluation.main
        grey = list(published(main)) if published else []
        places = (
            ("parameters", lambda row: row.parameters, [(one.parameters, one.value) for one in grey]),
            (f"images/s: {how}", speed_of, [(one.images_per_s, one.value) for one in grey]),
        )  # fmt: skip
        for axes, (label, where, others) in zip(pair, places):
            points = [
                (row, n, x, s) for n, row in enumerate(rows) if (x := where(row)) and (s := shown(row, name, main))
            ]
            label_of_others = f"published: {grey[0].about}" if grey else ""
            draw_points(axes, points, [(x, y) for x, y in others if x], label_of_others)
            axes.set_xlabel(label)
            axes.set_ylabel(f"{axis_title(main)}, {name}")
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, parse_math=False)
    save(figure, out, DPI)


def speed_of(row: Row) -> float | None:
    return row.throughput["images_per_s"] if row.throughput else None


def draw_points(
    axes: Axes,
    points: Sequence[tuple[Row, int, float, tuple[float, float, float]]],
    others: Sequence[tuple[float, float]],
    label: str,
) -> None:
    """One panel.

    Args:
        points: encoders, their numbers, which choose colours, their place across, and their figure with its interval.
        others: published points, in grey.
        label: what they are.
    """
    for _, n, x, (value, low, high) in points:
        axes.errorbar(
            x, value, [[value - low], [high - value]], color=COLOURS[n % len(COLOURS)],
            marker=MARKERS[n % len(MARKERS)], markersize=8, elinewidth=1.2, capsize=3,
        )  # fmt: skip
    if others:
        axes.scatter([x for x, _ in others], [y for _, y in others], s=22, color="0.7", zorder=1, label=label)
        axes.legend(frameon=False, fontsize=8)
    places = [x for _, _, x, _ in points] + [x for x, _ in others]
    if not places:
        axes.text(0.5, 0.5, "no encoder has both", ha="center", transform=axes.transAxes, color="0.4")
        axes.set(xticks=[], yticks=[])
        return
    axes.set_xscale("log")
    beside = 1.6 if max(places) > 10 * min(places) else 4
    axes.set_xlim(min(places) / beside, max(places) * beside)
    axes.margins(y=0.15)
    axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
    wide = max(places) > 100 * min(places)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_short(value)))
    open_frame(axes)
    own = [(x, s) for _, _, x, s in points]
    names = [shorten(readable(row.name)) for row, *_ in points]
    name_points(axes, [x for x, _ in own], [s[0] for _, s in own], [s[1:] for _, s in own], names)


def in_short(value: float) -> str:
    """21,000,000 as 21M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def name_points(
    axes: Axes, xs: Sequence[float], ys: Sequence[float], ends: Sequence[Sequence[float]], names: Sequence[str]
) -> None:
    """Write each name beside its point, where possible inside the axes and clear of other names, points and intervals."""
    canvas = FigureCanvasAgg(axes.figure)  # type: ignore[arg-type]
    canvas.draw()
    inside = axes.get_window_extent()
    corners = [axes.transData.transform([(x, low), (x, y), (x, high)]) for x, y, (low, high) in zip(xs, ys, ends)]
    taken = [
        Bbox.from_extents(at[0] - 8, min(low[1], at[1] - 8), at[0] + 8, max(high[1], at[1] + 8))
        for low, at, high in corners
    ]
    for i, (x, y, name) in enumerate(zip(xs, ys, names)):
        text = axes.annotate(
            name, (x, y), (0, 0), fontsize=9, color="0.1", textcoords="offset points", parse_math=False
        )
        fit_fonts(text)
        worst: list[tuple[int, int]] = []
        for n, (dx, dy, across, up) in enumerate(PLACES):
            text.set(position=(dx, dy), ha=across, va=up)
            box = text.get_window_extent(canvas.get_renderer())
            clashes = sum(box.overlaps(other) for other in taken[:i] + taken[i + 1 :])
            outside = not (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1)
            worst.append((clashes + 2 * outside, n))
        dx, dy, across, up = PLACES[min(worst)[1]]
        text.set(position=(dx, dy), ha=across, va=up)
        taken.append(text.get_window_extent(canvas.get_renderer()))


def shorten(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 + 1 :]}"
