"""Images with depth maps in metres, and the layouts of usual data sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinolab.errors import UserError
from dinolab.evals.contract import Context, Given
from dinolab.evals.pairs import (
    Pair,
    PairOptions,
    PairSet,
    Size,
    as_set,
    facts,
    matched,
    names_of,
    open_pairs,
    read_values,
)
from dinolab.fields import option

KNOWN = "NYU Depth v2, KITTI, 7-Scenes"
MILLIMETRES = 1000.0  # units of a map in a metre
KITTI_UNITS = 256.0
KITTI_CROP = (352, 1216)  # what is left of its images, as in the published evaluations
NEAR, FAR, KITTI_FAR = 1e-3, 10.0, 80.0  # metres
CROPS = ("auto", "none", "nyu", "kitti")


@dataclass(frozen=True)
class Depths:
    """How the values of a map become metres."""

    scale: float  # values in a metre

    def read(self, path: str) -> np.ndarray:
        """Depths in metres, float32 (H, W), 0 where there is no reading.

        Raises:
            BrokenImage: the file cannot be read.
            UserError: it holds colours.
        """
        found = read_values(path)
        if found.ndim == 3:
            raise UserError(f"{path}: a picture of colours; a depth map has one channel, usually of 16 bits")
        metres = found.astype(np.float32) / self.scale
        return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))


class DepthLayout(NamedTuple):
    """A data set that was found, and what is published for it."""

    name: str
    train: list[Pair]
    test: list[Pair]
    scale: float = MILLIMETRES
    far: float = FAR
    crop: str = "none"  # of the pixels that count
    cut: Size | None = None  # of images and maps


def nyu(root: Path) -> DepthLayout | None:
    """nyu_train.txt and nyu_test.txt, with the paths of an image and its map in each line."""
    listings = [root / f"nyu_{side}.txt" for side in ("train", "test")]
    if not all(listing.is_file() for listing in listings):
        return None
    train, test = (listed(file, root, root) for file in listings)
    return DepthLayout("NYU Depth v2", train, test, crop="nyu")


def kitti(root: Path) -> DepthLayout | None:
    """The split of Eigen: kitti_eigen_train.txt and kitti_eigen_test.txt in split/, images in input/, maps in gt_depth/."""
    listings = [root / "split" / f"kitti_eigen_{side}.txt" for side in ("train", "test")]
    if not all(listing.is_file() for listing in listings):
        return None
    train, test = (listed(file, root / "input", root / "gt_depth") for file in listings)
    return DepthLayout("KITTI", train, test, KITTI_UNITS, KITTI_FAR, "kitti", KITTI_CROP)


def listed(listing: Path, images: Path, maps: Path) -> list[Pair]:
    """The pairs of a list; lines whose map is None are left out. Raises UserError for a line that names no pair."""
    pairs = []
    for number, line in enumerate(listing.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if len(words) == 1:
            raise UserError(f"{listing}, line {number}: not the paths of an image and of its map")
        if words and words[1] != "None":
            image, depth = (folder / word.lstrip("/") for folder, word in zip((images, maps), words))
            pairs.append((str(image.absolute()), str(depth.absolute())))
    return pairs


def seven_scenes(root: Path) -> DepthLayout | None:
    """frame-*.color.* beside frame-*.depth.png: one sequence, a scene with TrainSplit.txt and TestSplit.txt, or a folder of scenes."""
    scenes = [root, *sorted(folder for folder in root.iterdir() if folder.is_dir())]
    splits = [scene for scene in scenes if (scene / "TrainSplit.txt").is_file() and (scene / "TestSplit.txt").is_file()]
    train, test = (
        [pair for scene in splits for folder in sequences(scene / f"{side}Split.txt") for pair in frames(folder)]
        for side in ("Train", "Test")
    )
    if not splits:
        train = frames(root) if [*root.glob("frame-*.depth.png")] else []
    return DepthLayout("7-Scenes", train, test) if train else None


def sequences(listing: Path) -> list[Path]:
    """The folders seq-01, ... of a list with the lines sequence1, ..."""
    numbers = [line.strip().removeprefix("sequence") for line in listing.read_text(errors="replace").splitlines()]
    return [listing.parent / f"seq-{int(number):02d}" for number in numbers if number.isdigit()]


def frames(folder: Path) -> list[Pair]:
    return matched(f"{folder}/frame-*.color.*", f"{folder}/frame-*.depth.png", "train")


LAYOUTS = (nyu, kitti, seven_scenes)


class DepthMaps:
    """Training and test images with depth maps."""

    @dataclass
    class Options(PairOptions):
        scale: float = option(0.0, "values of a map in a metre (0: 1000, millimetres; 256 for KITTI)", 0, 1e9)
        near: float = option(NEAR, "least depth that counts, in metres", 0, 1e6)
        far: float = option(0.0, "largest depth that counts, in metres (0: 10; 80 for KITTI)", 0, 1e6)
        crop: str = option("auto", "part of test images that counts; auto: as published", choices=CROPS)

    def __init__(self, train: PairSet, test: PairSet, layout: str, near: float, far: float, crop: str) -> None:
        self.train, self.test, self.layout = train, test, layout
        self.near, self.far, self.crop = near, far, crop
        self.sources = [train.source, test.source]

    @staticmethod
    def open(options: "DepthMaps.Options", given: Given, context: Context) -> "DepthMaps":
        """Raises UserError: an unknown layout, files without a partner, an empty range of depths."""
        if given:
            raise UserError("takes no opened sources: name data= or train=IMAGES,MAPS")
        layout, train, test = open_pairs(options, LAYOUTS, KNOWN)
        usual = layout or DepthLayout("folders", train, test)
        far = options.far or usual.far
        if far <= options.near:
            raise UserError(f"near={options.near}: must be less than far, which is {far}")
        read = Depths(options.scale or usual.scale).read
        of_train, of_test, name = names_of(options, layout)
        crop = usual.crop if options.crop == "auto" else options.crop
        sides = [as_set(of, pairs, read, usual.cut) for of, pairs in ((of_train, train), (of_test, test))]
        return DepthMaps(sides[0], sides[1], name, options.near, far, crop)

    def counted(self, truth: np.ndarray) -> np.ndarray:
        """A map of test depths without what lies outside of the published crop: 0 there.

        NYU: rows 45 to 470 and columns 41 to 600 of 480 x 640, by Eigen et al.; KITTI: the crop of Garg et al., in shares.
        """
        h, w = truth.shape
        if self.crop == "none":
            return truth
        if self.crop == "nyu":
            top, end, left, right = (
                round(side * n) for side, n in ((h / 480, 45), (h / 480, 471), (w / 640, 41), (w / 640, 601))
            )
        else:
            top, end, left, right = int(0.40810811 * h), int(0.99189189 * h), int(0.03594771 * w), int(0.96405229 * w)
        kept = np.zeros_like(truth)
        kept[top:end, left:right] = truth[top:end, left:right]
        return kept

    def facts(self) -> dict[str, Any]:
        """What a result keeps of the data."""
        return facts(self.train, self.test, self.layout)
