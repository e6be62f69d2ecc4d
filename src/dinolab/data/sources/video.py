"""Every frame of a video, or of all videos and folders of frames in a folder and below it, as `clips:` finds them.

Neighbouring frames are decoded together, which suits reading in order. A frame that is read by itself costs up to 16.
"""

import os
from collections.abc import Sequence

from dinolab.data.addresses import absolute, as_os_error, read_regular
from dinolab.data.sources.clips import CLIPS, Clip, decoded, find_clips, frames_in, packet_times
from dinolab.data.sources.kind import Count, Kind, Listing, Request
from dinolab.errors import UserError

TOGETHER = 16  # frames that are decoded at once


class Videos(Kind):
    """The parts of a location are the video, or the folder of frames, and "FRAMEofFRAMES", counted from 0."""

    title = "every frame of videos (video:FILE_OR_FOLDER)"
    sequences = True

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        path = absolute(request.path)
        if not os.path.exists(path):
            raise UserError(f"{request.named}: no such file or folder")
        is_file = os.path.isfile(path)
        clips, labels, reason = ([Clip(path, 0, 1)], None, "it is one video") if is_file else find_clips(request)
        names: list[str] = []
        frames = []
        for clip in clips:
            frames.append(number_of_frames(clip.path))
            names += [f"{clip.path}\0{number}of{frames[-1]}" for number in range(frames[-1])]
            count(len(names))
        return Listing(names, labels and [one for one, many in zip(labels, frames) for _ in range(many)], reason)

    def read(self, parts: Sequence[str]) -> bytes:
        path, (number, total) = parts[0], map(int, parts[1].split("of"))
        if os.path.isdir(path):
            return read_regular(os.path.join(path, frames_in(path)[number]))
        first = number - number % TOGETHER
        with as_os_error():
            return decoded(path, tuple(range(first, min(first + TOGETHER, total))))[number - first]

    def describe(self, parts: Sequence[str]) -> str:
        number, total = map(int, parts[1].split("of"))
        return f"{parts[0]}, frame {number + 1} of {total}"

    def forget(self) -> None:
        CLIPS.forget()


def number_of_frames(path: str) -> int:
    """The frames of a video or of a folder; 1 for a file that is damaged, so that reading it says what is wrong with it."""
    if os.path.isdir(path):
        return len(frames_in(path))
    try:
        with as_os_error():
            return len(packet_times(path)[1])
    except OSError:
        return 1


VIDEO = Videos()
