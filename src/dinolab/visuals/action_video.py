"""A video of a clip beside the encoder's attention and PCA maps, above the class that a classifier predicts for each frame.

n frames, C classes, D width of a class token.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.models.encoder import evaluating, refuse_infinite
from dinolab.progress import track
from dinolab.visuals.action_canvas import MARGIN, Layout, draw_base, draw_card, draw_panels, lay_out, name_panel, place
from dinolab.visuals.action_strip import STRIP, Strip
from dinolab.visuals.clip import Clip, h264_writer, import_av, open_photos
from dinolab.visuals.images import fit_patches, usual_size
from dinolab.visuals.video import Paint, paint_attention, paint_pca, survey

AROUND = 0.25  # seconds before and after a frame over which its probabilities are averaged
CARD = 3  # seconds that the title is shown
SMOOTHEST = 10  # frames a second, at least: photos are repeated
BATCH = 32  # frames in a forward

Classify = Callable[[Tensor], Tensor]
Prepare = Callable[[np.ndarray], Tensor]


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
    """Write a video of a clip beside attention and PCA, above the classes that are predicted for it.

    Attention is left out where the encoder has none. The clip is read three times: to count and sample its frames, which fix the
    colours; to classify them; and to paint.

    Args:
        classify: called once, with the class tokens of all frames, float32 (n, D) on the CPU, each of the frame's evaluation
            view (`data.views.eval_view`); returns probabilities (n, C). Those of neighbouring frames are averaged.
        classes: names of the C classes.
        clip: a video file, or a folder or list of images of any sizes, each shown for a second.
        out: an .mp4 file, which is written as H.264.
        title: of the video; by default the clip's name.
        size: side in pixels of the evaluation view, and short side at which the encoder sees the frames for its maps; by default the
            encoder's own, and see `usual_size`.
        labels: the true class of each frame, shown above it; empty where it is not known.
        progress: show bars on stderr.

    Returns:
        The number of frames written.

    Raises:
        UserError: the clip has no frame or one that cannot be read, PyAV is not installed, or the probabilities do not fit.
    """
    import_av()  # its absence is reported before any work
    opened = open_photos(clip)

    def prepare(frame: np.ndarray) -> Tensor:
        return fit_patches(frame, encoder.patch_size, size or usual_size(encoder, frame), opened.name)

    with evaluating(encoder):
        count, _, samples = survey(opened, prepare)
        view = size or int(getattr(encoder, "image_size", 224))
        tokens, aspect = class_tokens(
            encoder, track(opened.frames(), f"classes of {opened.name}", count, progress), view
        )
        probabilities = average(check(classify(tokens), count, classes), int(AROUND * opened.rate))

        painters = [paint_pca(encoder, samples)]
        if getattr(encoder, "has_class_token", True):
            painters.insert(0, paint_attention(encoder, samples, None, opened.rate))
        layout = lay_out(title or opened.name, 1 + len(painters), aspect)
        strip = Strip(probabilities, classes, float(opened.rate), layout.width - 2 * MARGIN)
        card = draw_card(layout, explanation(opened, len(painters) > 1, len(classes)))
        frames = track(opened.frames(), f"video of {opened.name}", count, progress)
        return write_video(out, opened.rate, card, draw_frames(frames, prepare, painters, layout, strip, labels))


def class_tokens(encoder: Any, frames: Iterator[np.ndarray], size: int) -> tuple[Tensor, float]:
    """Compute the class tokens of all frames, float32 (n, D) on the CPU, and the median of the frames' width over height."""
    aspects: list[float] = []

    def views() -> Iterator[Tensor]:
        for frame in frames:
            aspects.append(frame.shape[1] / frame.shape[0])
            yield torch.from_numpy(eval_view(frame, size))

    left, tokens = views(), []
    while batch := list(islice(left, BATCH)):
        tokens.append(encoder(torch.stack(batch)).cls.float().cpu())
        refuse_infinite(tokens[-1], encoder)
    return torch.cat(tokens), float(np.median(aspects))


def check(probabilities: Tensor, frames: int, classes: Sequence[str]) -> np.ndarray:
    """Return the probabilities as float64 (n, C). Raises UserError if their shape is another, or one is not finite."""
    if probabilities.shape != (frames, len(classes)) or not probabilities.isfinite().all():
        raise UserError(
            f"classify: returned shape {tuple(probabilities.shape)} for {frames} frames and {len(classes)} classes; finite "
            f"probabilities of shape {(frames, len(classes))} are needed"
        )
    return probabilities.detach().cpu().double().numpy()


def average(probabilities: np.ndarray, half: int) -> np.ndarray:
    """Replace each row (n, C) by the mean of itself and up to `half` rows before and after it."""
    n = np.arange(len(probabilities))
    sums = np.vstack([np.zeros_like(probabilities[:1]), probabilities.cumsum(0)])
    low, high = (n - half).clip(0), (n + half + 1).clip(max=len(n))
    return (sums[high] - sums[low]) / (high - low)[:, None]


def explanation(clip: Clip, attention: bool, classes: int) -> dict[str, str]:
    """Return a sentence on each part of the video, by the part's name, for the title card."""
    averaged = f", averaged over {2 * AROUND:g} s" if int(AROUND * clip.rate) else ""
    source = "the class token" if attention else "the features' mean"
    looks = (
        {"attention": "where the class token looks in the last block: yellow most, black least"} if attention else {}
    )
    return {
        "original": clip.name,
        **looks,
        "PCA": "first three components of the patch features as red, green, blue: like colours, like features",
        "prediction": f"one of {classes} classes, from {source}{averaged}",
    }


def write_video(out: Path, rate: Fraction, card: np.ndarray, canvases: Iterator[np.ndarray]) -> int:
    """Write the title card for a while, then the canvases at this rate; returns the number of frames."""
    repeats = ceil(SMOOTHEST / rate)
    written = ceil(CARD * rate * repeats)
    with h264_writer(out, rate * repeats, *card.shape[:2]) as add:
        for _ in range(written):
            add(card)
        for canvas in canvases:
            for _ in range(repeats):
                add(canvas)
            written += repeats
    return written


def draw_frames(
    frames: Iterator[np.ndarray],
    prepare: Prepare,
    painters: Sequence[tuple[str, Paint]],
    layout: Layout,
    strip: Strip,
    labels: Sequence[str],
) -> Iterator[np.ndarray]:
    """Draw a canvas, uint8 (layout.height, layout.width, 3), for each frame of the clip."""
    base = draw_base(layout, ["original", *(name for name, _ in painters)])
    for n, frame in enumerate(frames):
        canvas = base.copy()
        if labels:
            name_panel(canvas, layout, f"original: {labels[n]}", 0)
        panels = draw_panels(frame, prepare(frame), [paint for _, paint in painters], layout.panel)
        for panel, left in zip(panels, layout.lefts):
            place(canvas, panel, left, layout.panel)
        canvas[-STRIP - MARGIN : -MARGIN, MARGIN:-MARGIN] = strip.draw(n)
        yield canvas
