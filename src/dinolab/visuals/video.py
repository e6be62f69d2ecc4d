"""A clip beside what the encoder makes of it: attention, PCA or similarity, in colours that stay the same from frame to frame."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track
from torch import Tensor

from dinolab.errors import UserError
from dinolab.models.encoder import evaluating
from dinolab.visuals import pca
from dinolab.visuals.attention import attention_maps
from dinolab.visuals.clip import FOLDER_RATE, Clip, h264_writer, import_av, open_clip
from dinolab.visuals.images import as_fractions, fit_patches, usual_size
from dinolab.visuals.sheet import heat, mark, stretch
from dinolab.visuals.similarity import patch_at, scale, similarity_map

SAMPLES = 8  # frames that fix the colours
SMOOTH = 0.9  # of the scale of attention is kept after 1/24 s
HEIGHTS = 224, 720  # pixels of a frame beside its map: smaller ones are enlarged, larger ones shrunk

Paint = Callable[
    [Tensor, np.ndarray], np.ndarray
]  # uint8 (3, H, W), picture (h, w, 3) in [0, 1] -> (h, w, 3) in [0, 1]


class Survey(NamedTuple):
    frames: int
    shape: tuple[int, int]  # height and width of the first
    samples: list[Tensor]  # SAMPLES to twice as many (or all, of a short clip), evenly spaced, the first among them


def make_video(
    encoder: Any,
    path: Path,
    out: Path,
    what: str = "attention",
    size: int | None = None,
    head: int | None = None,
    at: tuple[float, float] = (0.5, 0.5),
    progress: bool = False,
) -> int:
    """Write H.264 at the clip's frame rate: each frame, and beside it `what`, under a bar of titles; returns the frames.

    The clip is gone through twice: once to count and sample its frames, which fix the colours, once to paint. `what` is
    "attention" (the mean of the heads, or `head`, from 1), "pca" or "similarity" to the patch that lies at `at` in the
    first frame, in fractions or pixels. `size` is the short side that the encoder sees. Sound is left out.
    """
    import_av()  # or say before all the work that it is missing
    clip = open_clip(path)

    def prepare(frame: np.ndarray) -> Tensor:
        return fit_patches(frame, encoder.patch_size, size or usual_size(encoder, frame), clip.name)

    with evaluating(encoder):
        count, shape, samples = survey(clip, prepare)
        height, width = panel_size(*shape)
        point = as_fractions(at, *shape)
        title, paint = painter(encoder, samples, what, head, point, clip.rate)
        bar = title_bar((clip.name, title), width, height % 2)
        console = Console(stderr=True)
        frames = track(clip.frames(), f"{what} of {clip.name}", count, console=console, disable=not progress)
        with h264_writer(out, clip.rate, len(bar) + height, 2 * width) as add:
            for n, frame in enumerate(frames):
                picture = cv2.resize(frame, (width, height), interpolation=way(frame.shape[0], height))
                painted = paint(prepare(frame), picture / 255)
                if what == "similarity" and n == 0:
                    painted = mark(painted, *point)
                beside = np.hstack([picture, (painted.clip(0, 1) * 255).round().astype(np.uint8)])
                add(np.vstack([bar, beside]))
    return count


def survey(clip: Clip, prepare: Callable[[np.ndarray], Tensor]) -> Survey:
    """Goes through the clip once. Raises UserError if it has no frame."""
    samples: list[Tensor] = []
    every, count, shape = 1, 0, (0, 0)
    for frame in clip.frames():
        if count == 0:
            shape = frame.shape[:2]
        if count % every == 0:
            samples.append(prepare(frame))
            if len(samples) > 2 * SAMPLES:
                samples, every = samples[::2], 2 * every
        count += 1
    if not count:
        raise UserError(f"{clip.name}: not one frame in it; name another clip")
    return Survey(count, shape, samples)


def painter(
    encoder: Any, samples: Sequence[Tensor], what: str, head: int | None, at: tuple[float, float], rate: Fraction
) -> tuple[str, Paint]:
    """The map's title and the function that paints it."""
    if what == "attention":
        return paint_attention(encoder, samples, head, rate)
    if what == "pca":
        return paint_pca(encoder, samples)
    patches = [features(encoder, sample) for sample in samples]
    asked = patch_at(patches[0], *at)
    low, high = scale([similarity_map(one, asked) for one in patches])
    return f"similarity, {low:.2f} to {high:.2f}", lambda frame, picture: heat(
        picture, similarity_map(features(encoder, frame), asked), low, high
    )


def paint_pca(encoder: Any, samples: Sequence[Tensor]) -> tuple[str, Paint]:
    """One basis, that of the samples, for all frames."""
    fitted = pca.fit([features(encoder, sample) for sample in samples])
    return "PCA of the patches", lambda frame, picture: stretch(
        pca.paint(features(encoder, frame), fitted).rgb, picture.shape[:2], "nearest"
    )


def paint_attention(
    encoder: Any, samples: Sequence[Tensor], head: int | None, rate: Fraction = FOLDER_RATE
) -> tuple[str, Paint]:
    """The scale goes from the least to the greatest value, averaged over the samples and then slowly with the frames.

    How slowly is a matter of time: photos that stand for a second each have nearly their own.
    """
    heads = attention_maps(encoder, samples[0][None]).shape[1]
    if head is not None and head > heads:
        raise UserError(f"--head {head}: this encoder has {heads} heads")

    def attention(frame: Tensor) -> Tensor:
        maps = attention_maps(encoder, frame[None])[0].float().cpu()
        return maps.mean(0) if head is None else maps[head - 1]

    scales = torch.stack([torch.stack(one.aminmax()) for one in map(attention, samples)]).mean(0)
    kept = SMOOTH ** float(24 / rate)

    def paint(frame: Tensor, picture: np.ndarray) -> np.ndarray:
        one = attention(frame)
        scales.lerp_(torch.stack(one.aminmax()), 1 - kept)
        return heat(picture, one, *scales.tolist())

    return ("attention, " + (f"mean of {heads} heads" if head is None else f"head {head}")), paint


def features(encoder: Any, frame: Tensor) -> Tensor:
    """Patch features (h, w, D) of a frame, uint8 (3, H, W), on the CPU."""
    return encoder(frame[None]).patches[0].float().cpu()


def panel_size(height: int, width: int) -> tuple[int, int]:
    """The frame's own size, unless its height is out of HEIGHTS: then a whole multiple, or shrunk."""
    if height < HEIGHTS[0]:
        factor = -(-HEIGHTS[0] // height)
        return height * factor, width * factor
    shown = min(height, HEIGHTS[1])
    return shown, round(width * shown / height)


def way(height: int, shown: int) -> int:
    return cv2.INTER_NEAREST if shown >= height else cv2.INTER_AREA


def title_bar(titles: tuple[str, str], width: int, odd: int) -> np.ndarray:
    """White on near-black, uint8 (h, 2 * width, 3), a title over each half, cut where it is too long.

    With an `odd` height it makes an even one together with a panel of odd height, as H.264's yuv420p asks.
    """
    size = min(max(12, width // 22), 24)
    height = 2 * size + odd
    font = letters(size)
    bar = Image.new("RGB", (2 * width, height), (24, 24, 24))
    draw = ImageDraw.Draw(bar)
    for n, title in enumerate(titles):
        text = shorten(title, font, width - size)
        draw.text((n * width + size // 2, height / 2), text, "white", font, anchor="lm")
    return np.asarray(bar)


def letters(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font that matplotlib brings along, `size` in pixels."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{'-Bold' * bold}.ttf", size)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, cut where it would be wider, in pixels."""
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text
