"""Accuracies as bars, and accuracy over throughput (DINO's figure 5), as PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

DPI = 200
# Okabe and Ito's colours, told apart by colour-blind readers too; the marks repeat what they say.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
BAR = 0.26  # inches
LONGEST = 40  # characters of a name
# Where a point's name may stand, best first: offset in points, and how it is aligned.
PLACES = [
    (x, y, {1: "left", -1: "right", 0: "center"}[(x > 0) - (x < 0)], {1: "bottom", -1: "top", 0: "center"}[(y > 0) - (y < 0)])
    for x, y in ((9, 0), (-9, 0), (0, 10), (0, -10), (9, 9), (-9, 9), (9, -9), (-9, -9), (9, 22), (-9, 22), (9, -22), (-9, -22))
]  # fmt: skip


def draw_accuracies(rows: Sequence[dict[str, Any]], protocols: Sequence[str], title: str, out: Path) -> None:
    """A group of bars an encoder, a bar a protocol, with 95 % intervals; `rows` as `compare` has them."""
    rows = [row for row in rows if any("accuracy" in result for result in row["results"].values())]
    height = BAR * (len(protocols) + 0.8) * len(rows) + 1.5
    figure = Figure((8, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    highest = max(100 * end for row in rows for result in row["results"].values() for end in result.get("interval", []))
    for p, protocol in enumerate(protocols):
        found = [(place, row["results"].get(protocol, {})) for place, row in enumerate(rows)]
        found = [(place, result) for place, result in found if "accuracy" in result]
        places = [place + 0.8 * ((p + 0.5) / len(protocols) - 0.5) for place, _ in found]
        shares = [100 * result["accuracy"] for _, result in found]
        ends = [[100 * end for end in result["interval"]] for _, result in found]
        errors = [
            [share - low for share, (low, _) in zip(shares, ends)],
            [high - share for share, (_, high) in zip(shares, ends)],
        ]
        thick = 0.8 / len(protocols)
        colour = COLOURS[p % len(COLOURS)]
        axes.barh(
            places,
            shares,
            0.92 * thick,
            color=colour,
            label=protocol,
            xerr=errors,
            error_kw={"elinewidth": 1, "ecolor": "0.2"},
        )
        for place, share, (_, high) in zip(places, shares, ends):
            axes.text(high + 0.012 * highest, place, f"{share:.1f}", va="center", fontsize=8, color="0.2")
    axes.set_yticks(range(len(rows)), [shorten(row["name"]) for row in rows], fontsize=10, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.12 * highest, 1))  # with room for the figures
    axes.margins(y=0.02)
    axes.set_xlabel("accuracy in %, with its 95 % interval over test images")
    axes.set_title(title, loc="left", fontsize=12, parse_math=False)
    axes.grid(axis="x", color="0.9")
    clear(axes)
    if len(protocols) > 1:
        figure.legend(loc="outside lower left", ncols=len(protocols), frameon=False, fontsize=9)
    figure.savefig(out, dpi=DPI)


def draw_speeds(rows: Sequence[dict[str, Any]], protocol: str, name: str, out: Path) -> None:
    """Accuracy by `protocol` over images/s, one named point an encoder; encoders that lack either are left out."""
    rows = [row for row in rows if "throughput" in row and "accuracy" in row["results"].get(protocol, {})]
    if not rows:
        return
    figure = Figure((7, 4.6), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    speeds = [row["throughput"]["images_per_s"] for row in rows]
    shares = [100 * row["results"][protocol]["accuracy"] for row in rows]
    ends = [[100 * end for end in row["results"][protocol]["interval"]] for row in rows]
    for i, (speed, share, (low, high)) in enumerate(zip(speeds, shares, ends)):
        axes.errorbar(
            speed, share, [[share - low], [high - share]], color=COLOURS[i % len(COLOURS)], marker=MARKS[i % len(MARKS)],
            markersize=9, elinewidth=1.2, capsize=3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 1.6, max(speeds) * 1.6)
    axes.margins(y=0.15)
    axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    at = rows[0]["throughput"]
    axes.set_xlabel(f"images/s of the forward: batches of {at['batch_size']}, {at['precision']} on {at['device']}")
    axes.set_ylabel(f"accuracy in %, {name}")
    axes.set_title("Accuracy over throughput", loc="left", fontsize=12)
    axes.grid(color="0.9")
    clear(axes)
    name_points(axes, speeds, shares, ends, [shorten(row["name"]) for row in rows])
    figure.savefig(out, dpi=DPI)


def name_points(
    axes: Axes, xs: Sequence[float], ys: Sequence[float], ends: Sequence[Sequence[float]], names: Sequence[str]
) -> None:
    """Each name beside its point, inside the axes and clear of other names and of points with their intervals, if that can be."""
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


def clear(axes: Axes) -> None:
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def shorten(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 + 1 :]}"
