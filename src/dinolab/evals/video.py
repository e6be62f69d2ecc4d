"""Classification of clips: features of evenly spaced frames, averaged or joined, and a linear layer (DINOv2, table 7).

N clips, F frames of each, D features of a frame.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dinolab.data.locations import join
from dinolab.data.sources.clips import FRAMES, find_clips
from dinolab.data.sources.kind import Request
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.classification import ACCURACY, FURTHER, Classification, Classified
from dinolab.evals.contract import Context, Finds, Given, Task
from dinolab.evals.labelled_images import LabelledImages, Sides
from dinolab.evals.linear import LinearHeads
from dinolab.evals.logreg import LogisticRegression
from dinolab.evals.roots import below, train_and_test
from dinolab.evals.scores import match_classes
from dinolab.features.extract import FeatureSet
from dinolab.features.loading import DIGEST
from dinolab.features.options import TOKENS
from dinolab.fields import option

HEADS: dict[str, Any] = {"logreg": LogisticRegression(), "linear": LinearHeads()}
JOINS = ("average", "concatenate")
WHERE = {  # names of folders, and where people usually get what is in them
    ("ucf101", "ucf-101"): "UCF-101: ucf101/train and ucf101/test, a folder of clips for each class; from https://www.crcv.ucf.edu/data/UCF101.php",
    ("kinetics400", "k400", "kinetics"): "Kinetics-400: kinetics400/train and kinetics400/val; from https://github.com/cvdfoundation/kinetics-dataset",
    ("ssv2", "something-something-v2"): "Something-Something v2: ssv2/train and ssv2/val; from https://www.qualcomm.com/developer/software/something-something-v-2-dataset",
}  # fmt: skip
JOINED = "ssv2"  # the set whose frames are joined, as their order matters


class LabelledClips(LabelledImages):
    """Labelled clips as if each were an image, whose features are those of its frames; a clip's location is that of its middle frame."""

    def __init__(self, sources: list[Source], context: Context, frames: list[Source], joined: bool) -> None:
        super().__init__(sources, context)
        self.frames, self.joined = frames, joined

    @staticmethod
    def open(options: Any, given: Given, context: Context) -> "LabelledClips":
        """Raises UserError: a folder without clips, training clips without classes, or no class that both have."""
        opened = [open_clips(options.train, "train", options)]
        if opened[0][0].labels is None:
            raise UserError(f"train={options.train} has no labels: {opened[0][0].unlabelled}")
        opened += [open_clips(test, "test", options) for test in dict.fromkeys(options.test)]
        clips, frames = map(list, zip(*opened))
        for test in clips[1:]:
            if test.classes and not {*clips[0].classes} & {*test.classes}:
                match_classes(clips[0], test)
        return LabelledClips(clips, context, frames, options.join == JOINS[1])

    def features(self, encoder: Any, blocks: int = 1, patches: bool = False) -> list[FeatureSet]:
        key = encoder, blocks, patches
        if key not in self.known:
            self.known[key] = [
                of_clips(self.context.extract(encoder, frames, blocks, patches), clips, len(frames), self.joined)
                for clips, frames in zip(self.sources, self.frames)
            ]
        return self.known[key]


def open_clips(path: str, named: str, options: Any) -> tuple[Source, Source]:
    """The clips in a folder, and all their frames."""
    request = Request(path, f"{named}={path}", named)
    clips, labels, reason = find_clips(request, options.segments)
    classes = sorted({*labels}) if labels else []
    numbers = np.array([classes.index(label) for label in labels], np.int64) if labels else None
    count = options.frames
    middles = [join("clips", clip.frame(0, 1)) for clip in clips]
    frames = [join("clips", clip.frame(number, count)) for clip in clips for number in range(count)]
    source = Source(path, middles, numbers, classes, unlabelled=reason)
    repeated = None if numbers is None else np.repeat(numbers, count)
    return source, replace(source, paths=frames, labels=repeated)


def of_clips(frames: FeatureSet, clips: Source, total: int, joined: bool) -> FeatureSet:
    """Features of clips from those of their frames.

    Args:
        total: number of frames, the unreadable ones among them.
        joined: the frames' features one after the other, F * D, in place of their mean; clips that lack a frame are then left out.
    """
    each = total // len(clips)
    of_clip = frames.kept // each
    counts = torch.bincount(of_clip, minlength=len(clips))
    kept = (counts == each if joined else counts > 0).nonzero()[:, 0]
    if not len(kept):
        raise UserError(f"{clips.name}: no clip has all its {each} frames; join=average takes those that can be read")
    rows = torch.isin(of_clip, kept)
    place = torch.searchsorted(kept, of_clip[rows])

    def pooled(tokens: Tensor) -> Tensor:
        if joined:
            return tokens[rows].reshape(len(kept), -1)
        summed = torch.zeros(len(kept), tokens.shape[1]).index_add_(0, place, tokens[rows])
        return summed / counts[kept][:, None]

    contents = [frames.digests[of_clip == clip].numpy().tobytes() for clip in kept.tolist()]
    digests = b"".join(hashlib.blake2b(content, digest_size=DIGEST).digest() for content in contents)
    labels = torch.full((len(kept),), -1) if clips.labels is None else torch.from_numpy(clips.labels)[kept]
    as_rows = torch.from_numpy(np.frombuffer(digests, np.uint8).reshape(-1, DIGEST).copy())
    return FeatureSet([pooled(block) for block in frames.blocks], pooled(frames.patches), labels, kept, as_rows)


class ClipClassification(Classification):
    title = "video classification"
    about = "A linear layer on the features of evenly spaced frames of each clip, averaged or one after the other."
    needs = LabelledClips
    FIGURES = (ACCURACY, *FURTHER)
    suites = ("dinov2",)

    @dataclass
    class Options(LabelledImages.Options):
        solver: ClassVar[str] = "torch"  # of logreg
        frames: int = option(FRAMES, "evenly spaced frames of each clip", 1, 1000)
        segments: int = option(1, "cut each video into so many clips", 1, 10000)
        join: str = option("average", "how the features of a clip's frames become one row", choices=JOINS)
        head: str = option("logreg", "evaluation whose layer predicts", choices=tuple(HEADS))
        tokens: str = option("cls", "of logreg: class token, mean of the patches, or both", choices=TOKENS)
        blocks: int = option(1, "of logreg: number of last blocks whose class tokens are used", 1, 1000)

    def find(self, root: Path) -> Finds:
        tasks, missing = [], []
        for names, where in WHERE.items():
            folder = below(root, names)
            sides = train_and_test(folder) if folder else None
            if not sides:
                missing.append(where)
                continue
            clips = sum(len(find_clips(Request(str(side), str(side)))[0]) for side in sides)
            options = {"train": str(sides[0]), "test": [str(sides[1])], "join": JOINS[names[0] == JOINED]}
            tasks.append(Task(options, FRAMES * clips, names[0]))
        return Finds(tasks, missing)

    def classify(
        self, encoder: Any, data: LabelledImages, options: Any, context: Context, seed: int
    ) -> tuple[Sides, Classified]:
        sides, found = HEADS[options.head].classify(encoder, data, options, context, seed)
        own = {name: getattr(options, name) for name in ("frames", "segments", "join", "head")}
        # without the layer: it takes the features of clips, and other commands would hand it those of images
        return sides, replace(found, settings=found.settings | own, layer=None)
