"""Clips of which masks are given: the folders of DAVIS, or plain folders of frames."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinolab.data.addresses import IMAGES
from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.sources.walk import by_number
from dinolab.data.types import Source
from dinolab.errors import UserError, some
from dinolab.evals.contract import Context, EvaluationOptions, Given
from dinolab.evals.label_images import size_of
from dinolab.fields import option

log = logging.getLogger(__name__)
FRAMES, MASKS = ("JPEGImages", "images", "frames"), ("Annotations", "masks")  # names of folders
RESOLUTIONS = ("480p", "Full-Resolution")  # folders below those of DAVIS, the first one that is there
FIRST = "mask"  # a mask of this name belongs to the first frame
LAYOUTS = (
    "expected JPEGImages/480p/CLIP and Annotations/480p/CLIP as DAVIS has them, or a folder of frames (or of folders of frames) "
    "with masks as PNGs of the same names in a folder `masks` beside them"
)


@dataclass(frozen=True)
class Clip:
    """The frames of a clip, and the masks of some of them."""

    name: str
    frames: list[Path]
    masks: dict[int, Path]  # by the position of their frame; the first frame has one
    scored: list[int]  # positions of the frames, other than the first, whose masks the prediction is compared with

    @property
    def source(self) -> Source:
        """Frames and masks as a list of files."""
        return Source(self.name, [str(path.absolute()) for path in (*self.frames, *self.masks.values())], None, [])


class Clips:
    """Clips with a mask for the first frame; figures need masks for other frames too."""

    @dataclass
    class Options(EvaluationOptions):
        """Options that name clips."""

        data: str = option(
            "", "the root of DAVIS, a folder of frames with masks, or a folder of such folders", required=True
        )
        split: str = option("val", "of DAVIS: the list ImageSets/2017/SPLIT.txt of clips")

    def __init__(self, name: str, clips: list[Clip]) -> None:
        self.name, self.clips = name, clips
        self.sources = [clip.source for clip in clips]

    @staticmethod
    def open(options: "Clips.Options", given: Given, context: Context) -> "Clips":
        """Raises UserError: no clip is found, a first frame has no mask, or a mask has no frame or another size."""
        if not options.data:
            raise UserError("data is not set: name a folder of clips")
        clips = find_clips(Path(options.data), options.split)
        for clip in clips:
            check(clip)
        return Clips(options.data, clips)


def find_clips(root: Path, split: str) -> list[Clip]:
    """The clips of a folder, in the order of their names or of the list of DAVIS."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {LAYOUTS}")
    if (root / FRAMES[0]).is_dir() and (root / MASKS[0]).is_dir() and not files(root / FRAMES[0]):
        return davis_clips(root, split)
    if clip := plain_clip(root):
        return [clip]
    clips = [clip for folder in folders(root) if (clip := plain_clip(folder))]
    if not clips:
        raise UserError(f"{root}: no clip is found; {LAYOUTS}")
    return clips


def davis_clips(root: Path, split: str) -> list[Clip]:
    """The clips of a list of DAVIS; all where there are no lists. Neither the first frame nor the last is scored."""
    frames, masks = (with_resolution(root / name) for name in (FRAMES[0], MASKS[0]))
    listed = root / "ImageSets" / "2017" / f"{split}.txt"
    if listed.is_file():
        names = listed.read_text(encoding="utf-8", errors="replace").split()
    elif (root / "ImageSets").is_dir():
        raise UserError(f"{listed}: no such list; name another one with split=NAME")
    else:
        names = [folder.name for folder in folders(frames)]
    found = []
    for name in names:
        if not (frames / name).is_dir():
            raise UserError(
                f"{frames / name}: no such folder, though {listed} names it; complete the data, or shorten the list"
            )
        clip = paired(name, files(frames / name), files(masks / name))
        found.append(Clip(name, clip.frames, clip.masks, [n for n in clip.scored if n < len(clip.frames) - 1]))
    if not found:
        raise UserError(f"{root}: no clip is found in {frames}; {LAYOUTS}")
    return found


def with_resolution(folder: Path) -> Path:
    return next((folder / name for name in RESOLUTIONS if (folder / name).is_dir()), folder)


def plain_clip(folder: Path) -> Clip | None:
    """The clip of a folder of frames, with the masks in a folder beside them or among them; None where there is none.

    Every frame with a mask is scored, except for the first.
    """
    frames_in, masks_in = (
        next((folder / name for name in names if (folder / name).is_dir()), folder) for names in (FRAMES, MASKS)
    )
    frames, masks = files(frames_in), [path for path in files(masks_in) if path.suffix.lower() == ".png"]
    if frames_in == masks_in:
        frames = [path for path in frames if path not in masks]
    return paired(folder.resolve().name, frames, masks) if frames else None


def paired(name: str, frames: list[Path], masks: list[Path]) -> Clip:
    """The clip of these frames and masks. Raises UserError for a mask without a frame, and a first frame without a mask."""
    if not frames:
        raise UserError(f"{name}: there is no frame in this clip; complete it or leave it out")
    positions = {path.stem: n for n, path in enumerate(frames)}
    positions = {FIRST: 0, **positions}
    alone = [str(path) for path in masks if path.stem not in positions]
    if alone:
        raise UserError(f"{some(alone, 1)}: a mask without a frame of the same name; complete the frames or remove it")
    found = {positions[path.stem]: path for path in masks}
    if 0 not in found:
        raise UserError(
            f"{frames[0]}: the first frame has no mask, and its labels are needed; add a PNG of the same name"
        )
    return Clip(name, frames, found, sorted(n for n in found if n))


def check(clip: Clip) -> None:
    """Raises UserError where a mask has another size than the frames."""
    size = read_frame(clip.frames[0]).shape[:2]
    for position, mask in clip.masks.items():
        found = size_of(mask)
        if found != size:
            frame = clip.frames[position].name
            raise UserError(
                f"{mask}: {found[1]} x {found[0]} pixels, and its frame {frame} has {size[1]} x {size[0]}; resize the mask, or remove it"
            )


def read_frame(path: Path) -> np.ndarray:
    """A frame, uint8 (H, W, 3). Raises UserError where it cannot be read."""
    try:
        return read_image(path)
    except BrokenImage as error:
        raise UserError(f"{error}; a clip needs all of its frames: replace this one") from error


def files(folder: Path) -> list[Path]:
    """The images in a folder, in the order of their numbers; none where there is no folder."""
    return sorted((path for path in entries(folder) if path.suffix.lower() in IMAGES and path.is_file()), key=by_number)


def folders(folder: Path) -> list[Path]:
    return sorted((path for path in entries(folder) if path.is_dir()), key=by_number)


def entries(folder: Path) -> Iterator[Path]:
    """What is in a folder, without hidden entries; nothing where it cannot be opened."""
    try:
        yield from (path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        if folder.is_dir():
            raise UserError(f"{folder}: cannot be opened ({error.strerror})") from error
