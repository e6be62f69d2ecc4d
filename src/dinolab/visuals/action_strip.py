"""The lower part of an action video: the most probable classes now, and the most probable class over time.

n frames, C classes. All sizes are pixels.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image, ImageDraw

from dinolab.plotting import fit_fonts
from dinolab.visuals.attention import HEAD_COLOURS
from dinolab.visuals.lettering import lettering

STRIP = 272  # height
TICKS = 34  # height of the times below the chart, which the strip contains
BARS = 4  # classes whose probability is shown at a time
BETWEEN = 48  # width between bars and chart
DARK, GREY, LIGHT = (24, 24, 24), (150, 150, 150), (205, 205, 205)
COLOURS = [tuple(round(255 * part) for part in colour) for colour in HEAD_COLOURS]


class Strip:
    """Bars of the most probable classes on the left; a chart of the most probable class over time, with a cursor, on the right.

    The classes that are most often the most probable have a colour of their own; classes beyond the palette are grey.

    Args:
        probabilities: (n, C).
        classes: names of the C classes.
        rate: frames a second.
        width: of the strip.
    """

    def __init__(self, probabilities: np.ndarray, classes: Sequence[str], rate: float, width: int) -> None:
        self.probabilities, self.classes, self.rate = probabilities, classes, rate
        frequent = (-np.bincount(probabilities.argmax(1), minlength=len(classes))).argsort(kind="stable")
        self.colours = dict(zip(frequent.tolist(), COLOURS))
        self.left = round(0.32 * width)
        self.chart, self.start, self.end = self.draw_chart(width - self.left - BETWEEN)

    def draw(self, n: int) -> np.ndarray:
        """Draw the strip of frame n, uint8 (STRIP, width, 3)."""
        cursor = round(self.start + (self.end - self.start) * (n + 0.5) / len(self.probabilities))
        chart = self.chart.copy()
        later = chart[:-TICKS, cursor : round(self.end) + 1]
        later[:] = (0.45 * later + 0.55 * np.array(DARK)).astype(np.uint8)
        chart[:-TICKS, cursor - 1 : cursor + 2] = 255
        gap = np.full((STRIP, BETWEEN, 3), DARK, np.uint8)
        return np.hstack([self.draw_bars(self.probabilities[n]), gap, chart])

    def draw_bars(self, now: np.ndarray) -> np.ndarray:
        """Draw the most probable classes of a frame, from its probabilities (C,): uint8 (STRIP, left, 3)."""
        image = Image.new("RGB", (self.left, STRIP), DARK)
        draw = ImageDraw.Draw(image)
        high = STRIP // BARS
        for row, label in enumerate((-now).argsort(kind="stable")[:BARS].tolist()):
            top, bold = row * high, row == 0
            share, colour = f"{100 * now[label]:.0f} %", self.colours.get(label, GREY)
            for text, room, x, anchor in (
                (self.classes[label], self.left - 100, 0, "ls"),
                (share, 100, self.left, "rs"),
            ):
                written, font = lettering(text, 27, room, bold)
                draw.text((x, top + 32), written, "white" if bold else LIGHT, font, anchor=anchor)
            draw.rectangle((0, top + 42, self.left - 1, top + 54), (58, 58, 58))
            if (filled := round(self.left * float(now[label]))) > 0:
                draw.rectangle((0, top + 42, filled - 1, top + 54), colour)
        return np.asarray(image)

    def draw_chart(self, width: int) -> tuple[np.ndarray, float, float]:
        """Draw the chart, uint8 (STRIP, width, 3); return it with the places, from the left, where time begins and ends."""
        figure = Figure((width / 72, STRIP / 72), dpi=72, facecolor=to_fractions(DARK))
        start, end, bottom, top = 72, width - 44, TICKS, STRIP - 10
        axes = figure.add_axes(
            (start / width, bottom / STRIP, (end - start) / width, (top - bottom) / STRIP),
            facecolor=to_fractions((44, 44, 44)),
        )
        labels, best = self.probabilities.argmax(1), self.probabilities.max(1)
        edges = np.arange(len(best) + 1) / self.rate
        axes.set(xlim=(0, edges[-1]), ylim=(0, 1.02), yticks=[0, 0.5, 1])
        axes.set_yticklabels(["", "50 %", "100 %"])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
        axes.tick_params(colors=to_fractions(LIGHT), labelsize=20, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        for label, group in groupby(range(len(labels)), key=labels.__getitem__):
            span = list(group)
            a, b = span[0], span[-1] + 1
            colour = to_fractions(self.colours.get(int(label), GREY))
            axes.stairs(best[a:b], edges[a : b + 1], fill=True, color=colour, linewidth=0.5, antialiased=False)
            name_span(axes, self.classes[label], (edges[a] + edges[b]) / 2, (b - a) / len(best) * (end - start))
        axes.stairs(best, edges, baseline=None, color="white", linewidth=1.5)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy(), start, end


def name_span(axes: Axes, name: str, middle: float, room: float) -> None:
    """Write a class's name into its area of the chart: horizontally if `room` is wide enough, else vertically, else not at all."""
    size = 22
    name, font = lettering(name, size, math.inf)
    needed = font.getlength(name) + 8
    if max(needed if needed <= room else 0, size + 6) > room:
        return
    edged = [withStroke(linewidth=4, foreground=to_fractions(DARK))]
    turned = 0 if needed <= room else 90
    text = axes.text(
        middle,
        0.05,
        name,
        fontsize=size,
        color="white",
        ha="center",
        va="bottom",
        rotation=turned,
        path_effects=edged,
        parse_math=False,
    )
    fit_fonts(text)


def to_fractions(colour: tuple[int, ...]) -> Any:
    """Convert a colour from 0..255 to 0..1, as matplotlib expects it."""
    return tuple(part / 255 for part in colour)
