"""Images with label maps: a class for every pixel, from indices, palettes or colours; and the layouts of usual data sets."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinolab.errors import UserError
from dinolab.evals.contract import Context, Given
from dinolab.evals.pairs import Pair, PairOptions, PairSet, as_set, facts, matched, names_of, open_pairs, read_values
from dinolab.fields import option

IGNORED = -1  # the class of pixels that do not count
VOID = (255,)  # values of such pixels, where nothing else is known
LARGEST = 1 << 16  # value of a map
LIKELY = 1000  # most classes that are taken for granted
KNOWN = "ADE20K, Cityscapes, Pascal VOC 2012, CamVid"

CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19, "traffic sign": 20,
    "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31,
    "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
ADE_CLASSES = 150


@dataclass(frozen=True)
class Labels:
    """How the values of a map become classes."""

    classes: list[str]  # empty where they are still to be counted
    ignored: tuple[int, ...] = VOID
    values: dict[int, int] | None = None  # value: class; other values do not count
    colours: dict[int, int] | None = field(
        default=None
    )  # red * 65536 + green * 256 + blue: class; other colours do not count

    def read(self, path: str) -> np.ndarray:
        """The class of each pixel, int16 (H, W), IGNORED where none counts.

        Raises:
            BrokenImage: the file cannot be read.
            UserError: it holds colours and there is no mapping of them, or a label above the number of classes.
        """
        found = read_values(path)
        if found.ndim == 3:
            if self.colours is None:
                raise UserError(f"{path}: a map of colours; name a file that says which class each is, by mapping=FILE")
            keys = (found.astype(np.int32) << [16, 8, 0]).sum(2)
            return look_up(keys, self.colours)
        if found.dtype.kind == "f" or found.min() < 0 or found.max() >= LARGEST:
            raise UserError(f"{path}: values of a label map are whole numbers from 0 to {LARGEST - 1:,}")
        if self.values is not None:
            return look_up(found, self.values)
        labels = np.where(np.isin(found, self.ignored), IGNORED, found.astype(np.int32))
        if self.classes and labels.max() >= len(self.classes):
            raise UserError(
                f"{path}: label {labels.max()}, but there are {len(self.classes)} classes, from 0 on; set classes= or ignore="
            )
        return labels.astype(np.int16)


def look_up(keys: np.ndarray, classes: dict[int, int]) -> np.ndarray:
    """The class of each key, int16; IGNORED for a key that has none."""
    known = np.array(sorted(classes))
    at = np.searchsorted(known, keys).clip(max=len(known) - 1)
    found = np.array([classes[key] for key in known.tolist()], np.int16)[at]
    return np.where(known[at] == keys, found, np.int16(IGNORED))


class LabelLayout(NamedTuple):
    """A data set that was found, and its labels."""

    name: str
    train: list[Pair]
    test: list[Pair]
    labels: Labels


def ade20k(root: Path) -> LabelLayout | None:
    """ADEChallengeData2016: images/ and annotations/ with training/ and validation/; the value 0 is "other" and does not count."""
    sides = [(root / "images" / side, root / "annotations" / side) for side in ("training", "validation")]
    if not all(folder.is_dir() for pair in sides for folder in pair):
        return None
    info = root / "objectInfo150.txt"
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()[1:] if info.is_file() else []
    names = [line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip()]
    classes = names if len(names) == ADE_CLASSES else [str(number) for number in range(1, ADE_CLASSES + 1)]
    train, test = (matched(str(images), str(maps), "train") for images, maps in sides)
    return LabelLayout("ADE20K", train, test, Labels(classes, values={n + 1: n for n in range(ADE_CLASSES)}))


def cityscapes(root: Path) -> LabelLayout | None:
    """leftImg8bit/ and gtFine/ with train/ and val/; of the values of *_labelIds.png the 19 that are evaluated count."""
    sides = []
    for side in ("train", "val"):
        images, maps = root / "leftImg8bit" / side, root / "gtFine" / side
        if not (images.is_dir() and maps.is_dir()):
            return None
        pattern = f"{maps}/**/*_gtFine_labelIds.png"
        sides.append(matched(f"{images}/**/*_leftImg8bit.png", pattern, "train" if side == "train" else "test"))
    values = {value: number for number, value in enumerate(CITYSCAPES.values())}
    train, test = sides
    return LabelLayout("Cityscapes", train, test, Labels([*CITYSCAPES], values=values))


def pascal_voc(root: Path) -> LabelLayout | None:
    """VOC2012: the lists in ImageSets/Segmentation; with SegmentationClassAug and trainaug.txt, the augmented training images."""
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        lists = folder / "ImageSets" / "Segmentation"
        if (lists / "train.txt").is_file() and (lists / "val.txt").is_file():
            break
    else:
        return None
    more = folder / "SegmentationClassAug"
    augmented = more.is_dir() and (lists / "trainaug.txt").is_file()

    def pairs(listing: Path, maps: Path) -> list[Pair]:
        names = listing.read_text(encoding="utf-8", errors="replace").split()
        return [
            (str((folder / "JPEGImages" / name).absolute()) + ".jpg", str((maps / name).absolute()) + ".png")
            for name in names
        ]

    usual = folder / "SegmentationClass"
    train = pairs(lists / "trainaug.txt", more) if augmented else pairs(lists / "train.txt", usual)
    return LabelLayout("Pascal VOC 2012", train, pairs(lists / "val.txt", usual), Labels([*VOC]))


def camvid(root: Path) -> LabelLayout | None:
    """The form of SegNet: train/, trainannot/, test/, testannot/; the value 11 does not count."""
    if not all((root / name).is_dir() for name in ("train", "trainannot", "test", "testannot")):
        return None
    train, test = (matched(str(root / side), str(root / f"{side}annot"), side) for side in ("train", "test"))
    return LabelLayout("CamVid", train, test, Labels([*CAMVID], ignored=(len(CAMVID), *VOID)))


LAYOUTS = (ade20k, cityscapes, pascal_voc, camvid)


def read_mapping(file: Path) -> Labels:
    """Classes from a CSV with the columns name and r, g, b (or value), or from a JSON object {name: [r, g, b]} (or {name: value}).

    Several lines with one name are one class. Raises UserError for anything else.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = [*rows_of_json(text)] if file.suffix.lower() == ".json" else [*rows_of_csv(text)]
    except OSError as error:
        raise UserError(f"mapping={file}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, csv.Error) as error:
        form = (
            'a CSV with the columns name,r,g,b or name,value, or a JSON object {"name": [r, g, b]} or {"name": value}'
        )
        raise UserError(f"mapping={file}: not {form}") from error
    classes = [*dict.fromkeys(name for name, _ in rows)]
    values = {key[0]: classes.index(name) for name, key in rows if len(key) == 1}
    colours = {
        (r << 16) + (g << 8) + b: classes.index(name) for name, (r, g, b) in (row for row in rows if len(row[1]) == 3)
    }
    if len(classes) < 2:
        raise UserError(f"mapping={file}: names {len(classes)} classes; two or more are needed")
    return Labels(classes, values=values or None, colours=colours or None)


def rows_of_json(text: str) -> Iterable[tuple[str, list[int]]]:
    for name, found in json.loads(text).items():
        yield str(name), checked([*found] if isinstance(found, list) else [found])


def rows_of_csv(text: str) -> Iterable[tuple[str, list[int]]]:
    for row in csv.DictReader(text.splitlines(), skipinitialspace=True):
        columns = ("value",) if row.get("value") else ("r", "g", "b")
        yield row["name"].strip(), checked([row[column] for column in columns])


def checked(numbers: list[Any]) -> list[int]:
    """A value, or red, green and blue. Raises ValueError for anything else."""
    found = [int(number) for number in numbers]
    if not (len(found) == 3 and all(0 <= n < 256 for n in found)) and not (len(found) == 1 and 0 <= found[0] < LARGEST):
        raise ValueError("neither a value nor a colour")
    return found


class LabelMaps:
    """Training and test images with label maps."""

    @dataclass
    class Options(PairOptions):
        mapping: str = option("", "CSV or JSON file with the class of each colour or value of the maps")
        classes: int = option(
            0, "number of classes (0: by data set or mapping, else the largest training label + 1)", 0, LARGEST
        )
        ignore: list[int] = option([], "labels that do not count (empty: 255, and those that the data set leaves out)")

    def __init__(self, train: PairSet, test: PairSet, layout: str, labels: Labels) -> None:
        self.train, self.test, self.layout, self.labels = train, test, layout, labels
        self.sources = [train.source, test.source]

    @staticmethod
    def open(options: "LabelMaps.Options", given: Given, context: Context) -> "LabelMaps":
        """Raises UserError: an unknown layout, files without a partner, a mapping that cannot be read."""
        if given:
            raise UserError("takes no opened sources: name data= or train=IMAGES,MAPS")
        layout, train, test = open_pairs(options, LAYOUTS, KNOWN)
        labels = layout.labels if layout else Labels([])
        if options.mapping:
            labels = read_mapping(Path(options.mapping))
        if options.ignore:
            labels = replace(labels, ignored=tuple(options.ignore))
        if options.classes and (options.mapping or labels.values):
            raise UserError(
                f"classes={options.classes}: the data set or mapping= says how many there are; leave it out"
            )
        if options.classes:
            labels = replace(labels, classes=[str(number) for number in range(options.classes)])
        of_train, of_test, name = names_of(options, layout)
        return LabelMaps(as_set(of_train, train, labels.read), as_set(of_test, test, labels.read), name, labels)

    def counted(self, counts: np.ndarray) -> "LabelMaps":
        """With classes where they were unknown: one for each number of training pixels, int (n,). Raises UserError for too many."""
        if self.labels.classes:
            return self
        if len(counts) > LIKELY:
            where = self.train.source.name
            raise UserError(
                f"{where}: labels up to {len(counts) - 1}: more than {LIKELY:,} classes; name another folder, or set classes="
            )
        labels = replace(self.labels, classes=[str(number) for number in range(len(counts))])
        train, test = (replace(pairs, read=labels.read) for pairs in (self.train, self.test))
        return LabelMaps(train, test, self.layout, labels)

    def facts(self) -> dict[str, Any]:
        """What a result keeps of the data."""
        return facts(self.train, self.test, self.layout, self.labels.classes)
