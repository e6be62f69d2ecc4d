"""Read clips (a video file, a folder of frames, or photos) as frames, and write frames as an H.264 video.

A frame is uint8 (H, W, 3), RGB. Videos are read and written with PyAV.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinolab.errors import UserError
from dinolab.files import beside
from dinolab.visuals.images import find_images, read_picture

FOLDER_RATE = Fraction(24)  # frames a second of a folder of frames, which does not record its rate
PHOTO_RATE = Fraction(1)  # each photo is shown for a second, long enough to look at it
ATTACHED_PICTURE = 0x400  # FFmpeg's flag of an album's cover, which is not a video
QUALITY = "18"  # x264's constant rate factor: visually lossless


class Clip(NamedTuple):
    """Frames in order, which can be read several times."""

    name: str
    rate: Fraction  # frames a second
    frames: Callable[[], Iterator[np.ndarray]]  # each call begins at the first frame; frames are upright


def import_av() -> Any:
    """Import PyAV, which is an optional dependency. Raises UserError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError("videos need PyAV: pip install 'dinolab[video]'") from error
    return av


def open_clip(path: Path) -> Clip:
    """Open a video file or a folder of frames. Raises UserError if it is neither."""
    if path.is_dir():
        paths = [found.path for found in find_images([str(path)])]
        return Clip(path.name, FOLDER_RATE, lambda: (read_picture(p) for p in paths))
    if not path.is_file():
        raise UserError(f"{path}: no such video or folder of frames")
    av = import_av()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = video_stream(container)
            if stream is None:
                raise UserError(f"{path}: holds sound and no pictures; name a video file")
            rate = stream.average_rate or stream.guessed_rate or FOLDER_RATE
    except av.FFmpegError as error:
        raise UserError(f"{path}: not a video that FFmpeg reads ({error.strerror})") from error
    return Clip(path.name, rate, lambda: decoded(path))


def open_photos(clip: str | Path | Sequence[str | Path]) -> Clip:
    """Open a video file, or a folder or list of photos of any sizes. Raises UserError if it is none of these."""
    if isinstance(clip, str | Path) and not Path(clip).is_dir():
        return open_clip(Path(clip))
    words = [clip] if isinstance(clip, str | Path) else clip
    paths = [found.path for found in find_images([str(word) for word in words])]
    name = Path(clip).resolve().name if isinstance(clip, str | Path) else f"{len(paths)} images"
    return Clip(name, PHOTO_RATE, lambda: (read_picture(p) for p in paths))


def video_stream(container: Any) -> Any:
    """Return the first video stream of an opened file; None if there is none."""
    return next((s for s in container.streams.video if not s.disposition & ATTACHED_PICTURE), None)


def decoded(path: Path) -> Iterator[np.ndarray]:
    """Decode the frames of a video file. Raises UserError where the file is damaged."""
    av = import_av()
    n = 0
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = video_stream(container)
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
                n += 1
    except av.FFmpegError as error:
        raise UserError(
            f"{path}: damaged after frame {n} ({error.strerror}); repair it with ffmpeg -i {path.name} repaired.mp4"
        ) from error


@contextmanager
def h264_writer(out: Path, rate: Fraction, height: int, width: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Open a video for writing; yields a function that adds a frame, uint8 (height, width, 3).

    The file appears at `out` when it is complete. If anything goes wrong before, no file is left.

    Args:
        out: an .mp4 file.
        rate: frames a second.
        height: in pixels, even, as the pixel format yuv420p requires.
        width: in pixels, even.
    """
    av = import_av()
    out.parent.mkdir(parents=True, exist_ok=True)
    with beside(out) as place, av.open(str(place), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": QUALITY})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"

        def add(frame: np.ndarray) -> None:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

        yield add
        container.mux(stream.encode())
