"""The demo: a clip, where the encoder looks, its patches' PCA, and the action that a classifier reads from its class tokens.

n frames, C classes, D width of a class token. All sizes on the canvas are pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track
from torch import Tensor

from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.models.encoder import evaluating
from dinolab.visuals.attention import HEAD_COLOURS
from dinolab.visuals.clip import Clip, h264_writer, import_av, open_photos
from dinolab.visuals.images import fit_patches, usual_size
from dinolab.visuals.video import Paint, letters, paint_attention, paint_pca, shorten, survey

PANEL = 480, 616  # height and width that a picture may take
NARROWEST = 1280  # of the canvas
MARGIN, GAP = 24, 12
HEADER, LABEL, STRIP = 72, 40, 272  # heights: the title, the panels' names, the prediction
TICKS = 34  # of that: the times below the chart
SMALLEST = 16  # letters of a long title
DARK, GREY, LIGHT = (24, 24, 24), (150, 150, 150), (205, 205, 205)
COLOURS = [tuple(round(255 * part) for part in colour) for colour in HEAD_COLOURS]
BARS = 4  # classes whose probability is shown at a time
AROUND = 0.25  # seconds before and after a frame over which its probabilities are averaged
CARD = 3  # seconds of the title
SMOOTHEST = 10  # frames a second at least: of photos each is repeated
BATCH = 32

Classify = Callable[[Tensor], Tensor]


class Layout(NamedTuple):
    title: str
    height: int
    width: int
    panel: tuple[int, int]  # height and width of a panel
    lefts: list[int]  # of the panels


def action_video(
    encoder: Any,
    classify: Classify,
    classes: Sequence[str],
    clip: str | Path | Sequence[str | Path],
    out: Path,
    title: str = "",
    size: int | None = None,
    labels: Sequence[str] = (),
    progress: bool = False,
) -> int:
    """Write H.264 of the clip beside attention and PCA, over the classes it is taken for; returns the frames written.

    Attention is left out where the encoder has none. The clip is gone through three times: to count and sample its frames,
    which fix the colours; to classify them; to paint.

    Args:
        classify: called once, with the class tokens of all frames, float32 (n, D) on the CPU, each of the frame's evaluation
            view (`data.views.eval_view`); returns probabilities (n, C). Those of neighbouring frames are averaged.
        clip: a video, or a folder or list of images of any sizes, each shown for a second.
        size: side of the evaluation view, and short side of the frames whose maps are shown; by default the encoder's own, and the
            frames' own within the usual limits.
        labels: of each frame, what it is in truth, to stand above it; empty where that is not known.

    Raises:
        UserError: nothing to show, a frame that cannot be read, or probabilities that are not of these classes.
    """
    import_av()  # or say before all the work that it is missing
    opened = open_photos(clip)

    def prepare(frame: np.ndarray) -> Tensor:
        return fit_patches(frame, encoder.patch_size, size or usual_size(encoder, frame), opened.name)

    def going(through: Iterator[np.ndarray], what: str) -> Any:
        console = Console(stderr=True)
        return track(through, f"{what} of {opened.name}", count, console=console, disable=not progress)

    with evaluating(encoder):
        count, _, samples = survey(opened, prepare)
        view = size or int(getattr(encoder, "image_size", 224))
        tokens, aspect = class_tokens(encoder, going(opened.frames(), "classes"), view)
        probabilities = steady(check(classify(tokens), count, classes), int(AROUND * opened.rate))

        painters = [paint_pca(encoder, samples)]
        if getattr(encoder, "has_class_token", True):
            painters.insert(0, paint_attention(encoder, samples, None, opened.rate))
        layout = lay_out(title or opened.name, 1 + len(painters), aspect)
        base = draw_base(layout, ["original", *(name for name, _ in painters)])
        strip = Strip(probabilities, classes, float(opened.rate), layout.width - 2 * MARGIN)

        repeats = ceil(SMOOTHEST / opened.rate)
        with h264_writer(out, opened.rate * repeats, layout.height, layout.width) as add:
            card = draw_card(layout, opened, len(painters) > 1, len(classes))
            written = ceil(CARD * opened.rate * repeats)
            for _ in range(written):
                add(card)
            for n, frame in enumerate(going(opened.frames(), "video")):
                canvas = base.copy()
                if labels:
                    name_panel(canvas, layout, f"original: {labels[n]}", 0)
                panels = draw_panels(frame, prepare(frame), [paint for _, paint in painters], layout.panel)
                for panel, left in zip(panels, layout.lefts):
                    place(canvas, panel, HEADER + LABEL, left, layout.panel)
                canvas[-STRIP - MARGIN : -MARGIN, MARGIN:-MARGIN] = strip.draw(n)
                for _ in range(repeats):
                    add(canvas)
                written += repeats
    return written


def class_tokens(encoder: Any, frames: Iterator[np.ndarray], size: int) -> tuple[Tensor, float]:
    """float32 (n, D) on the CPU, and the median of the frames' widths over their heights."""
    aspects: list[float] = []

    def views() -> Iterator[Tensor]:
        for frame in frames:
            aspects.append(frame.shape[1] / frame.shape[0])
            yield torch.from_numpy(eval_view(frame, size))

    left, tokens = views(), []
    while some := list(islice(left, BATCH)):
        tokens.append(encoder(torch.stack(some)).cls.float().cpu())
    return torch.cat(tokens), float(np.median(aspects))


def check(probabilities: Tensor, frames: int, classes: Sequence[str]) -> np.ndarray:
    if probabilities.shape != (frames, len(classes)) or not probabilities.isfinite().all():
        raise UserError(
            f"classify: gave {tuple(probabilities.shape)} for {frames} frames and {len(classes)} classes; finite "
            f"probabilities {(frames, len(classes))} are needed"
        )
    return probabilities.detach().cpu().double().numpy()


def steady(probabilities: np.ndarray, half: int) -> np.ndarray:
    """Each row (n, C) becomes the mean of itself and up to `half` rows before and after it."""
    n = np.arange(len(probabilities))
    sums = np.vstack([np.zeros_like(probabilities[:1]), probabilities.cumsum(0)])
    low, high = (n - half).clip(0), (n + half + 1).clip(max=len(n))
    return (sums[high] - sums[low]) / (high - low)[:, None]


def lay_out(title: str, panels: int, aspect: float) -> Layout:
    """Panels as large as PANEL has room for, on a canvas of even sides, as H.264's yuv420p asks."""
    tallest, widest = PANEL
    scale = min(tallest, widest / aspect)
    height, width = round(scale), max(round(scale * aspect), (NARROWEST - 2 * MARGIN - (panels - 1) * GAP) // panels)
    across = 2 * MARGIN + panels * width + (panels - 1) * GAP
    down = HEADER + LABEL + height + MARGIN + STRIP + MARGIN
    lefts = [MARGIN + i * (width + GAP) for i in range(panels)]
    return Layout(title, down + down % 2, across + across % 2, (height, width), lefts)


def draw_panels(frame: np.ndarray, shown: Tensor, paints: Sequence[Paint], panel: tuple[int, int]) -> list[np.ndarray]:
    """The frame, as large as fits into the panel, and its maps in that size, uint8 (h, w, 3)."""
    factor = min(panel[0] / frame.shape[0], panel[1] / frame.shape[1])
    height, width = (max(1, round(factor * side)) for side in frame.shape[:2])
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(frame, (width, height), interpolation=way)
    maps = [(paint(shown, picture / 255).clip(0, 1) * 255).round().astype(np.uint8) for paint in paints]
    return [picture, *maps]


def place(canvas: np.ndarray, picture: np.ndarray, top: int, left: int, room: tuple[int, int]) -> None:
    """In the middle of the room."""
    height, width = picture.shape[:2]
    top, left = top + (room[0] - height) // 2, left + (room[1] - width) // 2
    canvas[top : top + height, left : left + width] = picture


def draw_base(layout: Layout, names: Sequence[str]) -> np.ndarray:
    """What is the same in all frames: the title, and the panels' names."""
    image = Image.new("RGB", (layout.width, layout.height), DARK)
    draw, room = ImageDraw.Draw(image), layout.width - 2 * MARGIN
    font = fitting(layout.title, 32, room)
    draw.text((MARGIN, HEADER / 2), shorten(layout.title, font, room), "white", font, anchor="lm")
    base = np.array(image)
    for n, name in enumerate(names):
        name_panel(base, layout, name, n)
    return base


def name_panel(canvas: np.ndarray, layout: Layout, name: str, panel: int) -> None:
    """Above the panel, in the canvas."""
    label, font = Image.new("RGB", (layout.panel[1], LABEL), DARK), letters(24)
    text = shorten(name, font, layout.panel[1])
    ImageDraw.Draw(label).text((0, LABEL / 2 - 4), text, LIGHT, font, anchor="lm")
    left = layout.lefts[panel]
    canvas[HEADER : HEADER + LABEL, left : left + layout.panel[1]] = label


def fitting(text: str, size: int, room: float) -> Any:
    """A bold font in which the text fits, of the size or smaller."""
    while size > SMALLEST and letters(size, bold=True).getlength(text) > room:
        size -= 2
    return letters(size, bold=True)


def draw_card(layout: Layout, clip: Clip, attention: bool, classes: int) -> np.ndarray:
    """The title, and how to read what follows."""
    averaged = f", averaged over {2 * AROUND:g} s" if int(AROUND * clip.rate) else ""
    about = {
        "original": clip.name,
        "attention": "where the class token looks in the last block: yellow most, black least",
        "PCA": "first three components of the patch features as red, green, blue: like colours, like features",
        "prediction": f"one of {classes} classes, from the class token{averaged}",
    }
    if not attention:
        del about["attention"]
        about["prediction"] = f"one of {classes} classes, from the features' mean{averaged}"
    image = Image.new("RGB", (layout.width, layout.height), DARK)
    draw = ImageDraw.Draw(image)
    big, bold, plain = fitting(layout.title, 56, layout.width - 4 * MARGIN), letters(26, bold=True), letters(26)
    left, top = 2 * MARGIN, layout.height // 2 - 100
    draw.text((left, top), shorten(layout.title, big, layout.width - 2 * left), "white", big, anchor="ls")
    for n, (name, text) in enumerate(about.items()):
        row = top + 70 + 48 * n
        draw.text((left, row), name, COLOURS[1], bold, anchor="ls")
        text = shorten(text, plain, layout.width - 2 * left - 190)
        draw.text((left + 190, row), text, LIGHT, plain, anchor="ls")
    return np.asarray(image)


class Strip:
    """The lower part of a frame: the likeliest classes now, as bars, and the likeliest class over time, with a cursor.

    The classes that are the likeliest most often have a colour of their own; those beyond the palette are grey.
    """

    def __init__(self, probabilities: np.ndarray, classes: Sequence[str], rate: float, width: int) -> None:
        self.probabilities, self.classes, self.rate = probabilities, classes, rate
        frequent = (-np.bincount(probabilities.argmax(1), minlength=len(classes))).argsort(kind="stable")
        self.colours = dict(zip(frequent.tolist(), COLOURS))
        self.left = round(0.32 * width)
        self.chart, self.start, self.end = self.draw_chart(width - self.left - 2 * MARGIN)

    def draw(self, n: int) -> np.ndarray:
        """Of frame n, uint8 (STRIP, width, 3)."""
        cursor = round(self.start + (self.end - self.start) * (n + 0.5) / len(self.probabilities))
        chart = self.chart.copy()
        later = chart[:-TICKS, cursor : round(self.end) + 1]
        later[:] = (0.45 * later + 0.55 * np.array(DARK)).astype(np.uint8)
        chart[:-TICKS, cursor - 1 : cursor + 2] = 255
        gap = np.full((STRIP, 2 * MARGIN, 3), DARK, np.uint8)
        return np.hstack([self.draw_bars(self.probabilities[n]), gap, chart])

    def draw_bars(self, now: np.ndarray) -> np.ndarray:
        image = Image.new("RGB", (self.left, STRIP), DARK)
        draw = ImageDraw.Draw(image)
        high = STRIP // BARS
        for row, label in enumerate((-now).argsort(kind="stable")[:BARS].tolist()):
            font, top = letters(27, bold=row == 0), row * high
            share, colour = f"{100 * now[label]:.0f} %", self.colours.get(label, GREY)
            name = shorten(self.classes[label], font, self.left - 100)
            draw.text((0, top + 32), name, "white" if row == 0 else LIGHT, font, anchor="ls")
            draw.text((self.left, top + 32), share, "white" if row == 0 else LIGHT, font, anchor="rs")
            draw.rectangle((0, top + 42, self.left - 1, top + 54), (58, 58, 58))
            if (filled := round(self.left * float(now[label]))) > 0:
                draw.rectangle((0, top + 42, filled - 1, top + 54), colour)
        return np.asarray(image)

    def draw_chart(self, width: int) -> tuple[np.ndarray, float, float]:
        """uint8 (STRIP, width, 3), and where in it, from the left, time begins and ends."""
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


def name_span(axes: Any, name: str, middle: float, room: float) -> None:
    """The name in the chart's area: along where it has room, upright where that does."""
    size = 22
    needed = letters(size).getlength(name) + 8
    if max(needed if needed <= room else 0, size + 6) > room:
        return
    edged = [withStroke(linewidth=4, foreground=to_fractions(DARK))]
    turned = 0 if needed <= room else 90
    axes.text(
        middle, 0.05, name, fontsize=size, color="white", ha="center", va="bottom", rotation=turned, path_effects=edged
    )


def to_fractions(colour: tuple[int, ...]) -> Any:
    """For matplotlib."""
    return tuple(part / 255 for part in colour)
