"""Frames of clips, evenly spaced: video files, or folders of frames. Videos are decoded by PyAV.

`clips:DIR` is eight frames of each clip in a folder and below it; the folders of the first level are the classes. A long video can
be cut into segments, each of which is a clip.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np

from dinolab.data.addresses import IMAGES, absolute, as_os_error, read_regular
from dinolab.data.sources.kind import Count, Kind, Listing, Request
from dinolab.errors import UserError

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts")
FRAMES = 8  # of each clip, as DINOv2 takes them
ATTACHED_PICTURE = 0x400  # FFmpeg's flag of an album's cover, which is not a video


class Clip(NamedTuple):
    """A video file or a folder of frames, or one of its segments."""

    path: str
    segment: int  # its number, from 0
    segments: int  # into which the file is cut

    def frame(self, number: int, frames: int) -> str:
        """The parts of the location of one of its evenly spaced frames, joined by NUL."""
        return f"{self.path}\0{self.segment}of{self.segments} {number}of{frames}"


class Clips(Kind):
    """The parts of a location are the video, or the folder of frames, and "SEGMENTofSEGMENTS FRAMEofFRAMES", counted from 0."""

    title = "frames of clips (clips:FOLDER)"
    sequences = True

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        clips, labels, reason = find_clips(request)
        names = [clip.frame(number, FRAMES) for clip in clips for number in range(FRAMES)]
        count(len(names))
        return Listing(names, labels and [label for label in labels for _ in range(FRAMES)], reason)

    def read(self, parts: Sequence[str]) -> bytes:
        path, place = parts
        (segment, segments), (number, frames) = ([int(one) for one in word.split("of")] for word in place.split())
        if os.path.isdir(path):
            names = frames_in(path)
            return read_regular(os.path.join(path, names[position(len(names), segment, segments, number, frames)]))
        with as_os_error():
            total = len(packet_times(path)[1])
            return decoded(path, tuple(position(total, segment, segments, n, frames) for n in range(frames)))[number]

    def describe(self, parts: Sequence[str]) -> str:
        return f"{parts[0]}, segment and frame {parts[1]}"

    def forget(self) -> None:
        for kept in (decoded, packet_times, frames_in):
            kept.cache_clear()


def find_clips(request: Request, segments: int = 1) -> tuple[list[Clip], list[str] | None, str]:
    """The clips in a folder and below it, the class of each or None, and why there are no classes.

    Raises:
        UserError: the folder does not exist, or holds no clip.
    """
    root = absolute(request.path)
    if os.path.isfile(root):
        raise UserError(
            f"{request.named}: a file; name the folder that it lies in (video:FILE is every frame of a video)"
        )
    if not os.path.isdir(root):
        raise UserError(f"{request.named}: no such folder")
    found: list[tuple[str, str]] = []  # paths below the root, and classes
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if name[0] != ".")
        names = [name for name in sorted(files) if name[0] != "."]
        inside = os.path.relpath(folder, root)
        first = "" if inside == "." else inside.split(os.sep)[0]
        found += [(os.path.join(folder, name), first) for name in names if name.lower().endswith(VIDEOS)]
        if not below and any(name.lower().endswith(IMAGES) for name in names):
            found.append((folder, first if os.sep in inside else ""))
    if not found:
        raise UserError(
            f"{request.named}: no videos ({' '.join(VIDEOS)}) and no folders of frames in this folder or below it"
        )
    clips = [Clip(path, number, segments) for path, _ in found for number in range(segments)]
    classes = {label for _, label in found}
    if "" in classes or len(classes) < 2:
        stray = next((path for path, label in found if not label), "")
        reason = f"{stray} lies in no class" if stray else "there is one class"
        return clips, None, f"{reason}; a labelled folder has a subfolder of clips for each of two or more classes"
    return clips, [label for _, label in found for _ in range(segments)], ""


def position(total: int, segment: int, segments: int, frame: int, frames: int) -> int:
    """Which of `total` frames it is: the middle of the frame's share of the segment."""
    return min(total - 1, int((segment + (frame + 0.5) / frames) / segments * total))


@lru_cache(64)
def frames_in(folder: str) -> list[str]:
    """The images of a folder, in the order of their names."""
    return sorted(name for name in os.listdir(folder) if name.lower().endswith(IMAGES) and name[0] != ".")


@lru_cache(8)
def packet_times(path: str) -> tuple[int, list[int | None]]:
    """The number of a video file's first stream of pictures, and when each of its packets is shown.

    Raises:
        UserError: PyAV is not installed.
        OSError, av.FFmpegError: the file is no video, or is damaged.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(f"{path}: videos need PyAV: pip install 'dinolab[video]'") from error
    with av.open(path, metadata_errors="replace") as container:
        stream = next((one for one in container.streams.video if not one.disposition & ATTACHED_PICTURE), None)
        if stream is None:
            raise OSError("holds no pictures")
        times = [packet.pts for packet in container.demux(stream) if packet.size]
        if not times:
            raise OSError("holds not one frame")
        return stream.index, times


@lru_cache(2)  # frames are read one after the other
def decoded(path: str, wanted: tuple[int, ...]) -> list[bytes]:
    """The frames of a video at some positions, rising, encoded as BMP. Raises what `packet_times` does."""
    index, times = packet_times(path)
    import av

    with av.open(path, metadata_errors="replace") as container:
        pictures: Any = container.streams[index]
        pictures.thread_type = "AUTO"
        return list(map(as_bmp, taken(container, pictures, times, wanted)))


def taken(container: Any, stream: Any, times: list[int | None], wanted: Sequence[int]) -> list[Any]:
    """The frames at some positions, rising; frames that are missing at the end of a damaged file are replaced by the last one.

    Args:
        times: of presentation, of every packet; where some are unknown, frames are counted from the start.
    """
    known = sorted(time for time in times if time is not None)
    by_time = len(known) == len(times)
    keys = [known[n] for n in wanted] if by_time else wanted
    if by_time and keys[0] > known[0]:
        container.seek(keys[0], stream=stream)
    found: list[Any] = []
    frame = None
    for number, frame in enumerate(container.decode(stream)):
        here = frame.pts if by_time and frame.pts is not None else number
        while len(found) < len(keys) and here >= keys[len(found)]:
            found.append(frame)
        if len(found) == len(keys):
            return found
    if frame is None:
        raise OSError("not one frame can be decoded")
    return found + [frame] * (len(keys) - len(found))


def as_bmp(frame: Any) -> bytes:
    """A decoded frame, turned upright."""
    upright = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="bgr24"), frame.rotation // 90))
    return cv2.imencode(".bmp", upright)[1].tobytes()


CLIPS = Clips()
