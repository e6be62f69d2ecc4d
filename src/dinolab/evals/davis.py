"""Video object segmentation: how well the labels of a clip's first frame are carried on by the similarity of patch features.

The protocol of DINO (arXiv 2104.14294, section 4.2.2) on DAVIS 2017 (arXiv 1704.00675), and that of DINOv3 (arXiv 2508.10104).
Nothing is trained.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.config import parse_size
from dinolab.errors import UserError
from dinolab.evals.clips import Clip, Clips, read_frame
from dinolab.evals.contours import boundary, region, statistics
from dinolab.evals.contract import SUITES, Context, Evaluation, Figure, Finds
from dinolab.evals.davis_frames import Sizes, fit, overlay, strip
from dinolab.evals.label_images import LARGEST, LabelImage, read_labels, write_labels
from dinolab.evals.propagation import Propagation, Rule, nearest, to_pixels
from dinolab.evals.result import Json, Measured, Result
from dinolab.evals.roots import find_each
from dinolab.features import cache as kept_features
from dinolab.features.pixels import PatchColours, PixelEncoder
from dinolab.fields import option
from dinolab.files import write_whole
from dinolab.models.encoder import evaluating, refuse_infinite
from dinolab.precision import autocast, choose_precision
from dinolab.progress import progress_bar
from dinolab.rundir import PICTURES, RESULT
from dinolab.schemas import CLIP, read_object

log = logging.getLogger(__name__)
FORMAT = "davis 1"  # to be raised when the same settings give other masks or figures
SHOWN = 5  # frames in the picture of a clip
DRAWS = 10_000  # of the bootstrap
LEVEL = 0.95
PROTOCOLS = {  # size of the frames; neighbourhood is a circle; temperature; how labels are enlarged
    "dino": (Sizes(480, 64, "down"), False, 0.1, "bilinear"),
    "dinov3": (Sizes(960, 1, "up"), True, 0.2, "nearest"),
}


class Found(NamedTuple):
    """J and F of every object of a clip, in every frame that has a mask to compare with."""

    objects: dict[str, dict[str, list[float]]]  # {label: {"J": [...], "F": [...]}}

    @property
    def figures(self) -> list[dict[str, float]]:
        """The figures of each object, by the keys of FIGURES; none where no frame was compared."""
        return [figures_of(values["J"], values["F"]) for values in self.objects.values() if values["J"]]


WHERE = {
    (
        "davis",
        "davis2017",
        "davis-2017",
    ): "DAVIS 2017: davis with JPEGImages, Annotations and ImageSets; from https://davischallenge.org"
}


class DAVIS(Evaluation):
    title = "video object segmentation"
    about = "Carries the mask of a clip's first frame to its other frames by the similarity of patches, as DINO on DAVIS 2017."
    needs = Clips
    suites = SUITES
    FIGURES = (
        Figure("jf_mean", "J&F mean", published="davis2017.jf_mean"),
        Figure("j_mean", "J mean", published="davis2017.j_mean"),
        Figure("j_recall", "J recall"),
        Figure("j_decay", "J decay", higher_is_better=False),
        Figure("f_mean", "F mean", published="davis2017.f_mean"),
        Figure("f_recall", "F recall"),
        Figure("f_decay", "F decay", higher_is_better=False),
    )

    @dataclass
    class Options(Clips.Options):
        size: str = option(
            "",
            "short side of frames in pixels, or height and width as 480x832 (empty: the protocol's, 480 or 960)",
            check=parse_size,
        )
        protocol: str = option("dino", "whose sizes, neighbourhood and enlarging of labels", choices=tuple(PROTOCOLS))
        frames: int = option(7, "previous frames that labels come from, beside the first one", 0, 1000)
        neighbourhood: float = option(12, "how far away a similar patch may be, in patches (0: anywhere)", 0, 10_000)
        topk: int = option(5, "most similar patches that labels come from", 1, 1 << 20)
        temperature: float = option(0, "divides the similarities (0: the protocol's, 0.1 or 0.2)", 0, 1e6)

    def find(self, root: Path) -> Finds:
        return find_each(root, WHERE, lambda folder: (folder / "JPEGImages").is_dir())

    def run(self, encoder: Any, data: Clips, options: "DAVIS.Options", context: Context) -> Result:
        sizes, circle, temperature, enlarging = PROTOCOLS[options.protocol]
        rule = Rule(options.frames, options.neighbourhood, circle, options.topk, options.temperature or temperature)
        size = parse_size(options.size, "size") or (sizes.short, sizes.short)
        # a single number for a whole frame is no floor to compare with, so the baseline of raw pixels has patches here
        network = PatchColours() if isinstance(encoder, PixelEncoder) else encoder
        tracker = Tracker(network.to(context.device), rule, sizes, size, enlarging, context)
        settings = {"size": list(size), "protocol": options.protocol, "frames": rule.frames, "topk": rule.topk}
        settings |= {"neighbourhood": rule.neighbourhood, "temperature": rule.temperature}
        found = {}
        frames = sum(len(clip.frames) for clip in data.clips)
        with progress_bar(f"segmenting {data.name}", frames, context.progress, "frames") as advance:
            for clip in data.clips:
                of = kept_features.key(network, clip.source, repr((FORMAT, settings, context.precision, clip.scored)))
                found[clip.name] = tracker.finished(clip, of, advance) or tracker.segment(clip, of, advance)
        if context.out:
            remove_others(context.out / PICTURES, {f"{name}.png" for name in found})
        groups = [one.figures for one in found.values() if one.figures]
        facts = {"data": data.name, "test": data.name, "split": options.split, "test_images": frames}
        facts |= {"clips": len(found), "objects": sum(len(one.objects) for one in found.values())}
        return context.result(
            settings,
            data=facts,
            figures={figure.key: measured(groups, figure.key, context.seed) for figure in self.FIGURES if groups},
            parts={name: average(one.figures) for name, one in found.items() if one.figures},
        )


@dataclass(frozen=True)
class Tracker:
    """Segments clips, and writes what it finds into the folder of the results."""

    encoder: Any
    rule: Rule
    sizes: Sizes
    size: tuple[int, int]
    enlarging: str
    context: Context

    def masks_of(self, clip: Clip) -> list[Path]:
        folder = (self.context.out or Path()) / "masks" / clip.name
        return [folder / f"{frame.stem}.png" for frame in clip.frames]

    def kept(self, clip: Clip) -> Path:
        """The file with the figures of a clip, the last one that is written for it."""
        return (self.context.out or Path()) / "clips" / f"{clip.name}.json"

    def finished(self, clip: Clip, of: str, advance: Callable[[int], None]) -> Found | None:
        """What an earlier call with the same weights, frames and settings found, if its files are still there."""
        if not self.context.out or not self.kept(clip).is_file() or not all(map(Path.is_file, self.masks_of(clip))):
            return None
        try:
            content = read_object(self.kept(clip), CLIP)
            if content["of"] != of:
                return None
            found = Found({label: {"J": one["J"], "F": one["F"]} for label, one in content["objects"].items()})
        except (UserError, LookupError):  # damaged: it is written again
            return None
        advance(len(clip.frames))
        return found

    def segment(self, clip: Clip, of: str, advance: Callable[[int], None]) -> Found:
        """Segment a clip; without a folder for results nothing is written."""
        out = self.context.out
        if out:  # from here on the folder's result is that of other masks
            (out / RESULT).unlink(missing_ok=True)
            self.kept(clip).unlink(missing_ok=True)
            for path in (self.masks_of(clip)[0], self.kept(clip), out / PICTURES / "any"):
                path.parent.mkdir(parents=True, exist_ok=True)
        labels = objects_in(read_labels(clip.masks[0]).labels)
        found = Found({str(label): {"J": [], "F": []} for label in labels})
        shown = {*np.linspace(0, len(clip.frames) - 1, SHOWN).round().astype(int).tolist()}
        panels = []
        for n, (frame, image) in enumerate(self.masks(clip)):
            if n in clip.scored:
                truth = read_labels(clip.masks[n]).labels
                warn_of_others(clip.masks[n], truth, labels)
                for label in labels:
                    pair = truth == label, image.labels == label
                    found.objects[str(label)]["J"].append(region(*pair))
                    found.objects[str(label)]["F"].append(boundary(*pair))
            if out:
                write_labels(self.masks_of(clip)[n], image)
            if out and n in shown:
                panels.append(overlay(frame, image))
            advance(1)
        if out:
            strip(panels, out / PICTURES / f"{clip.name}.png")
            content: Json = {"of": of, "frames": [clip.frames[n].name for n in clip.scored], "objects": found.objects}
            write_whole(self.kept(clip), (json.dumps(content, indent=1) + "\n").encode(errors="surrogateescape"))
        return found

    def masks(self, clip: Clip) -> Iterator[tuple[np.ndarray, LabelImage]]:
        """Each frame, uint8 (H, W, 3), with its mask of the frame's size; the first one is that which was given."""
        given = read_labels(clip.masks[0])
        numbers = np.array([0, *objects_in(given.labels)], np.uint8)  # labels of the channels
        channels = np.searchsorted(numbers, given.labels).astype(np.uint8)
        channels[~np.isin(given.labels, numbers)] = 0
        shape = given.labels.shape
        for n, path in enumerate(clip.frames):
            frame = read_frame(path)
            if frame.shape[:2] != shape:
                raise UserError(
                    f"{path}: {frame.shape[1]} x {frame.shape[0]} pixels, where the clip's first frame has {shape[1]} x {shape[0]}; "
                    "resize it"
                )
            small = fit(frame, self.size, self.sizes, self.encoder.patch_size)
            features = self.features(small, path) if len(clip.frames) > 1 else None
            if n == 0 and features is not None:
                grid = nearest(channels, (features.shape[0], features.shape[1]))
                warn_of_lost(clip, grid, numbers)
                one_hot = F.one_hot(torch.from_numpy(grid).long(), len(numbers)).float()
                propagation = Propagation(features, one_hot.to(features.device), self.rule)
            elif features is not None:
                enlarged = small.shape[:2] if self.enlarging == "bilinear" else shape
                pixels = to_pixels(propagation.step(features), enlarged, self.enlarging)
                channels = nearest(pixels.cpu().numpy(), shape)
            yield frame, LabelImage(numbers[channels], given.palette)

    def features(self, frame: np.ndarray, path: Path) -> Tensor:
        """Features of the patches of a frame of fitting size, float32 (h, w, D)."""
        device = self.context.device
        images = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None].to(device)
        with evaluating(self.encoder), autocast(device, choose_precision(self.context.precision, device)):
            patches = self.encoder(images).patches.float()
        refuse_infinite(patches, self.encoder, lambda _: str(path))
        if patches.shape[1:3] == (1, 1):
            raise UserError(
                f"{self.context.encoder['name']}: gives one patch for a whole frame; "
                "take an encoder with a grid of patches, or a larger size="
            )
        return patches[0]


def objects_in(labels: np.ndarray) -> list[int]:
    """The labels of objects in a first mask: all but 0; and 255 where there is no other, since beside others it marks pixels to ignore."""
    found = [label for label in np.unique(labels).tolist() if label]
    return [label for label in found if label != LARGEST] or found


def warn_of_lost(clip: Clip, grid: np.ndarray, numbers: np.ndarray) -> None:
    lost = [str(label) for n, label in enumerate(numbers) if n and not (grid == n).any()]
    if lost:
        log.warning("%s: too small for a patch of their own, so never found: label %s", clip.masks[0], ", ".join(lost))


def warn_of_others(mask: Path, truth: np.ndarray, labels: list[int]) -> None:
    if truth.any() and not np.isin(truth, labels).any():
        first = ", ".join(map(str, labels))
        log.warning(
            "%s: has no label of the first mask (%s) but others, so all of it counts as background", mask, first
        )


def figures_of(j: list[float], f: list[float]) -> dict[str, float]:
    """The figures of one object from its values of J and F, by the keys of FIGURES."""
    named = {"j": statistics(j), "f": statistics(f)}
    each = {f"{letter}_{key}": value for letter, found in named.items() for key, value in found._asdict().items()}
    return {"jf_mean": (each["j_mean"] + each["f_mean"]) / 2, **each}


def average(objects: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([one[key] for one in objects])) for key in objects[0]}


def measured(clips: list[list[dict[str, float]]], key: str, seed: int) -> Measured:
    """The mean of a figure over the objects of all clips, as DAVIS has it, and the bootstrap's interval.

    Clips are drawn with all of their objects, since objects of one clip are alike. Of a single clip its objects are drawn, and a
    single object has no interval.
    """
    groups = [[one[key] for one in objects] for objects in clips]
    value = float(np.mean([value for group in groups for value in group]))
    if len(groups) == 1:
        groups = [[one] for one in groups[0]]
    if len(groups) == 1:
        return Measured(value)
    sums, counts = np.array([(sum(group), len(group)) for group in groups]).T
    drawn = np.random.default_rng(seed).integers(len(groups), size=(DRAWS, len(groups)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Measured(value, (float(low), float(high)))


def remove_others(folder: Path, names: set[str]) -> None:
    """Remove the pictures of an earlier evaluation of other clips: they would be shown beside this one's figures."""
    for picture in folder.glob("*.png"):
        if picture.name not in names:
            picture.unlink()
