"""A clip beside the encoder's attention, PCA or similarity maps, in colours that stay the same from frame to frame."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dinolab.errors import UserError
from dinolab.models.encoder import evaluating
from dinolab.progress import track
from dinolab.visuals import pca
from dinolab.visuals.attention import attention_maps, mass_mask
from dinolab.visuals.clip import FOLDER_RATE, Clip, h264_writer, import_av, open_clip
from dinolab.visuals.images import as_fractions, fit_patches, patch_features, usual_size
from dinolab.visuals.lettering import lettering
from dinolab.visuals.sheet import DIM, edge, heat, mark, stretch
from dinolab.visuals.similarity import patch_at, scale, similarity_map

SAMPLES = 8  # frames that fix the colours
SMOOTH = 0.9  # share of the colour scale of attention that is kept after 1/24 s
HEIGHTS = 224, 720  # pixels: smaller frames are enlarged, larger ones are shrunk

Paint = Callable[[Tensor, np.ndarray], np.ndarray]
"""Paints the map of a frame, uint8 (3, H, W), for a picture (h, w, 3) in [0, 1]: (h, w, 3) in [0, 1]."""


class Survey(NamedTuple):
    """The number of a clip's frames, and some of them."""

    frames: int
    shape: tuple[int, int]  # height and width of the first frame
    samples: list[
        Tensor
    ]  # SAMPLES to 2 * SAMPLES frames, evenly spaced, the first among them; all frames of a short clip


def make_video(
    encoder: Any,
    path: Path,
    out: Path,
    what: str = "attention",
    size: int | None = None,
    head: int | None = None,
    at: tuple[float, float] = (0.5, 0.5),
    progress: bool = False,
    share: float = 0,
) -> int:
    """Write a video of each frame of a clip with its map beside it, under a bar of titles, at the clip's frame rate.

    The clip is read twice: once to count its frames and sample those that fix the colours, once to paint. Sound is left out.

    Args:
        path: a video file, or a folder of frames.
        out: an .mp4 file, which is written as H.264.
        what: "attention", "pca" or "similarity".
        size: short side in pixels at which the encoder sees the frames; by default see `usual_size`.
        head: of attention, from 1; by default the mean of the heads.
        at: of similarity, the place of the query patch in the first frame, in fractions or pixels.
        progress: show a bar on stderr.
        share: of attention, show only the patches that hold this share of it; 0 shows all.

    Returns:
        The number of frames.

    Raises:
        UserError: the clip cannot be read or has no frame, PyAV is not installed, or the head or place does not exist.
    """
    import_av()  # its absence is reported before any work
    clip = open_clip(path)

    def prepare(frame: np.ndarray) -> Tensor:
        return fit_patches(frame, encoder.patch_size, size or usual_size(encoder, frame), clip.name)

    with evaluating(encoder):
        count, shape, samples = survey(clip, prepare)
        height, width = panel_size(*shape)
        point = as_fractions(at, *shape)
        if what == "attention":
            title, paint = paint_attention(encoder, samples, head, clip.rate, share)
        elif what == "pca":
            title, paint = paint_pca(encoder, samples)
        else:
            title, paint = paint_similarity(encoder, samples, point)
        bar = title_bar((clip.name, title), width, height % 2)
        frames = track(clip.frames(), f"{what} of {clip.name}", count, progress)
        with h264_writer(out, clip.rate, len(bar) + height, 2 * width) as add:
            for n, frame in enumerate(frames):
                picture = cv2.resize(frame, (width, height), interpolation=interpolation(frame.shape[0], height))
                painted = paint(prepare(frame), picture / 255)
                if what == "similarity" and n == 0:
                    painted = mark(painted, *point)
                beside = np.hstack([picture, (painted.clip(0, 1) * 255).round().astype(np.uint8)])
                add(np.vstack([bar, beside]))
    return count


def survey(clip: Clip, prepare: Callable[[np.ndarray], Tensor]) -> Survey:
    """Read a clip once to count its frames and to sample some. Raises UserError if it has no frame."""
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
        raise UserError(f"{clip.name}: there is not one frame in it; name another clip")
    return Survey(count, shape, samples)


def paint_similarity(encoder: Any, samples: Sequence[Tensor], at: tuple[float, float]) -> tuple[str, Paint]:
    """Return the title and painter of the similarity to a patch of the first sample; the samples fix the colour scale."""
    patches = [patch_features(encoder, sample) for sample in samples]
    query = patch_at(patches[0], *at)
    low, high = scale([similarity_map(one, query) for one in patches])

    def paint(frame: Tensor, picture: np.ndarray) -> np.ndarray:
        return heat(picture, similarity_map(patch_features(encoder, frame), query), low, high)

    return f"similarity, {low:.2f} to {high:.2f}", paint


def paint_pca(encoder: Any, samples: Sequence[Tensor]) -> tuple[str, Paint]:
    """Return the title and painter of the patches' PCA; the samples fix one basis for all frames."""
    fitted = pca.fit([patch_features(encoder, sample) for sample in samples])

    def paint(frame: Tensor, picture: np.ndarray) -> np.ndarray:
        return stretch(pca.paint(patch_features(encoder, frame), fitted).rgb, picture.shape[:2], "nearest")

    return "PCA of the patches", paint


def paint_attention(
    encoder: Any, samples: Sequence[Tensor], head: int | None, rate: Fraction = FOLDER_RATE, share: float = 0
) -> tuple[str, Paint]:
    """Return the title and painter of the class token's attention.

    The colour scale goes from the least to the greatest value. It begins with the samples' average and follows the frames slowly,
    measured in seconds of the clip: a photo that is shown for a second has nearly its own scale.

    Args:
        samples: frames, uint8 (3, H, W).
        head: from 1; None for the mean of the heads.
        rate: frames a second.
        share: show the colours only on the patches of `mass_mask`, within a white line, as DINO's masks; 0 shows all.

    Raises:
        UserError: the encoder has no such head.
    """
    heads = attention_maps(encoder, samples[0][None]).shape[1]
    if head is not None and head > heads:
        raise UserError(f"head={head}: this encoder has {heads} heads")

    def attention(frame: Tensor) -> Tensor:
        maps = attention_maps(encoder, frame[None])[0].float().cpu()
        return maps.mean(0) if head is None else maps[head - 1]

    scales = torch.stack([torch.stack(one.aminmax()) for one in map(attention, samples)]).mean(0)
    kept = SMOOTH ** float(24 / rate)

    def paint(frame: Tensor, picture: np.ndarray) -> np.ndarray:
        one = attention(frame)
        scales.lerp_(torch.stack(one.aminmax()), 1 - kept)
        drawn = heat(picture, one, *scales.tolist())
        if share:
            inside = stretch(mass_mask(one, share), picture.shape[:2], "nearest") > 0.5
            drawn[~inside] = DIM * picture.mean(2, keepdims=True)[~inside]
            drawn[edge(inside)] = 1
        return drawn

    whose = f"mean of {heads} heads" if head is None else f"head {head}"
    return f"attention, {whose}" + (f", {100 * share:g} % of it" if share else ""), paint


def panel_size(height: int, width: int) -> tuple[int, int]:
    """Return the height and width at which frames are shown: their own, a whole multiple of small ones, or large ones shrunk."""
    if height < HEIGHTS[0]:
        factor = -(-HEIGHTS[0] // height)
        return height * factor, width * factor
    shown = min(height, HEIGHTS[1])
    return shown, round(width * shown / height)


def interpolation(height: int, shown: int) -> int:
    """Return OpenCV's way to resize a frame: enlarged pixels stay sharp squares, shrunk ones are averaged."""
    return cv2.INTER_NEAREST if shown >= height else cv2.INTER_AREA


def title_bar(titles: tuple[str, str], width: int, odd: int) -> np.ndarray:
    """Draw a bar, uint8 (h, 2 * width, 3), with a title over each half, white on near-black; long titles are cut.

    With odd = 1, the bar's height is odd. Together with a panel of odd height it makes an even height, which the pixel format
    yuv420p requires.
    """
    size = min(max(12, width // 22), 24)
    height = 2 * size + odd
    bar = Image.new("RGB", (2 * width, height), (24, 24, 24))
    draw = ImageDraw.Draw(bar)
    for n, title in enumerate(titles):
        text, font = lettering(title, size, width - size)
        draw.text((n * width + size // 2, height / 2), text, "white", font, anchor="lm")
    return np.asarray(bar)
