"""Images with a map of the same size for each: the data of evaluations that predict a value for every pixel."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from dinolab.config import parse_size
from dinolab.data.decode import BrokenImage, decode, read_file
from dinolab.data.headers import check_size, open_image, read_header
from dinolab.data.loader import loaded, make_loader
from dinolab.data.quiet import quiet
from dinolab.data.types import Source
from dinolab.errors import UserError, reason
from dinolab.evals.contract import Context, EvaluationOptions
from dinolab.fields import option
from dinolab.progress import track

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
LONGEST_SHORT_SIDE = 512  # pixels, where no size is asked for

Pair = tuple[str, str]  # paths of an image and of its map
Size = tuple[int, int]  # height and width, in pixels


@dataclass
class PairOptions(EvaluationOptions):
    data: str = option("", "folder of a data set in its usual layout, in place of train and test")
    train: list[str] = option([], "IMAGES,MAPS: two folders with equal names, or patterns such as DIR/*.color.jpg")
    test: list[str] = option([], "IMAGES,MAPS to test on (empty: the last of the training images)")
    held_out: float = option(0.25, "share of training images to test on if there are no others", 0, 0.9)
    size: str = option("", "short side of images, or HEIGHTxWIDTH (empty: as they are, 512 at most)", check=parse_size)


class Layout(NamedTuple):
    """The pairs that were found in a data set."""

    name: str
    train: list[Pair]
    test: list[Pair]  # empty where the data set has no test pairs


@dataclass(frozen=True)
class PairSet:
    """Images and their maps. N images."""

    source: Source
    maps: list[str]  # path of each image's map
    read: Callable[[str], np.ndarray]  # a map (H, W) from its path; raises UserError or BrokenImage
    crop: Size | None = None  # of both, from the bottom and the middle: what is left of them

    def __len__(self) -> int:
        return len(self.maps)

    def load(self, number: int, size: Size | None, image: bool = True) -> tuple[Tensor, Tensor]:
        """An image, uint8 (3, h, w) of the size of a view, and its map (H, W).

        Args:
            size: see `view_size`.
            image: False reads the map alone, and gives an empty image.

        Raises:
            UserError: one of them cannot be read, or they have different sizes.
        """
        try:
            found = self.read(self.maps[number])
            if not image:
                return torch.empty(0), torch.from_numpy(bottom(found, self.crop))
            path = self.source.paths[number]
            pixels = decode(read_file(path), path)
        except BrokenImage as error:
            raise UserError(f"{error}; mend the file or remove it with its pair") from error
        if pixels.shape[:2] != found.shape:
            sizes = " and ".join(f"{h} x {w}" for h, w in (pixels.shape[:2], found.shape))
            raise UserError(f"{self.maps[number]}: image and map have different sizes, {sizes} (height x width)")
        pixels = bottom(pixels, self.crop)
        view = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        wanted = view_size((view.shape[1], view.shape[2]), size)
        if view.shape[1:] != wanted:
            view = F.interpolate(view[None], wanted, mode="bilinear", antialias=True)[0]
        return view, torch.from_numpy(np.ascontiguousarray(bottom(found, self.crop)))


def bottom(pixels: np.ndarray, size: Size | None) -> np.ndarray:
    """The part of this size at the bottom and in the middle of an image (H, W, ...), as KITTI's images are cut; None is all of it."""
    if size is None:
        return pixels
    top, left = max(0, pixels.shape[0] - size[0]), max(0, (pixels.shape[1] - size[1]) // 2)
    return pixels[top:, left : left + size[1]]


def view_size(image: Size, asked: Size | None) -> Size:
    """The size to which an image is resized.

    Args:
        image: its own height and width.
        asked: two equal numbers are the length of the short side, two different ones the size itself; None leaves images as they
            are, but for a short side above 512.
    """
    if asked is None:
        short = min(*image, LONGEST_SHORT_SIDE)
    elif asked[0] != asked[1]:
        return asked
    else:
        short = asked[0]
    height, width = (max(1, round(side * short / min(image))) for side in image)
    return height, width


@dataclass(frozen=True)
class Loading(Dataset[tuple[Tensor, Tensor, str]]):
    """Pairs as a DataLoader's processes read them: image, map, and what is wrong."""

    pairs: PairSet
    size: Size | None
    images: bool

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, str]:
        try:
            return *self.pairs.load(number, self.size, self.images), ""
        except UserError as error:
            return torch.empty(0), torch.empty(0), str(error)


def load_all(
    pairs: PairSet, size: Size | None, context: Context, title: str, images: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image and its map in order, as `PairSet.load` gives them, read by the context's processes; with a progress bar."""
    loader = make_loader(Loading(pairs, size, images), context.workers, batch_size=None)
    items = loaded(loader, f"fewer workers (now {context.workers})")
    for image, found, wrong in track(items, title, len(pairs), context.progress):
        if wrong:
            raise UserError(wrong)
        yield image, found


def read_values(path: str) -> np.ndarray:
    """The numbers of a map as they are stored: palette indices or grey values, (H, W), or colours, uint8 (H, W, 3).

    Raises:
        BrokenImage: the file is missing or no image.
        UserError: it is a photograph's format, whose values are not exact.
    """
    data = read_file(path)
    if data.startswith(b"\xff\xd8"):
        raise UserError(f"{path}: a JPEG, whose values are not exact; maps are PNG or TIFF files")
    try:
        read_header(data)
        with quiet(), open_image(data) as image:
            check_size(*image.size)
            if image.mode == "1":
                image = image.convert("L")
            exact = image.mode in ("P", "L", "I", "F") or image.mode.startswith("I;16")
            return np.array(image) if exact else np.array(image.convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything for damaged files
        raise BrokenImage(path, reason(error)) from error


def open_pairs(
    options: PairOptions, layouts: Sequence[Callable[[Path], Any]], kinds: str
) -> tuple[Any, list[Pair], list[Pair]]:
    """What `data` or `train` and `test` name: the layout (None for folders), training pairs, and test pairs.

    Args:
        layouts: functions that give a Layout, or something with the same fields, for a root folder in their layout, and else None.
        kinds: their names, for messages.

    Raises:
        UserError: nothing is named, the layout is unknown, or files have no partner.
    """
    layout = None
    if options.data:
        if options.train or options.test:
            raise UserError("data= names a whole data set; leave out train= and test=")
        root = Path(options.data)
        if not root.is_dir():
            raise UserError(f"data={root}: no such folder")
        layout = next((found for look in layouts if (found := look(root))), None)
        if layout is None:
            raise UserError(f"data={root}: no layout that dinolab knows ({kinds}); name folders by train=IMAGES,MAPS")
        train, test = layout.train, layout.test
    else:
        if not options.train:
            raise UserError("set data=ROOT, or train=IMAGES,MAPS")
        train = of_two(options.train, "train")
        test = of_two(options.test, "test") if options.test else []
    return layout, *(apart(train, test, options.held_out))


def apart(train: list[Pair], test: list[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """Training and test pairs; without test pairs, the last `share` of the training pairs. Raises UserError where one is empty."""
    if not test:
        cut = len(train) - max(1, round(share * len(train)))
        train, test = train[:cut], train[cut:]
    if not train:
        raise UserError(
            "there are too few pairs of image and map: one is needed to train on, and another one to test on"
        )
    return train, test


def of_two(places: list[str], option_name: str) -> list[Pair]:
    """The pairs of an option with two folders. Raises UserError where it does not name two, or a file has no partner."""
    if len(places) != 2:
        raise UserError(
            f"{option_name}={','.join(places)}: name two folders, of images and of maps: {option_name}=IMAGES,MAPS"
        )
    return matched(places[0], places[1], option_name)


def matched(images: str, maps: str, option_name: str) -> list[Pair]:
    """Pairs of the files in two folders, or of two patterns, by their names. Raises UserError for a file without a partner."""
    of_images, of_maps = by_name(images, option_name), by_name(maps, option_name)
    if of_images.keys() != of_maps.keys():
        of_images, of_maps = shortened(of_images), shortened(of_maps)
    for mine, theirs, folder in ((of_images, of_maps, maps), (of_maps, of_images, images)):
        if lone := sorted(mine.keys() - theirs.keys()):
            count = f" (and {len(lone) - 1:,} more files without a partner)" if len(lone) > 1 else ""
            raise UserError(f"{mine[lone[0]]}: there is no file of this name in {folder}{count}")
    return [(of_images[name], of_maps[name]) for name in sorted(of_images)]


def by_name(place: str, option_name: str) -> dict[str, str]:
    """The image files of a folder, or of a pattern, by their paths below it without the ending."""
    if any(sign in place for sign in "*?["):
        root = Path(re.split(r"[*?\[]", place)[0]).parent
        files = [Path(file) for file in glob(place, recursive=True)]
    else:
        root = Path(place)
        if not root.is_dir():
            raise UserError(f"{option_name}={place}: no such folder")
        files = [*root.rglob("*")]
    files = sorted(file for file in files if file.suffix.lower() in ENDINGS and file.is_file())
    if not files:
        raise UserError(f"{option_name}={place}: no images there")
    return {file.relative_to(root).with_suffix("").as_posix(): str(file.absolute()) for file in files}


def shortened(files: dict[str, str]) -> dict[str, str]:
    """The names without an ending that all of them share and that begins with one of the signs _ . - such as _L or .depth."""
    first, last = min(files, key=backwards), max(files, key=backwards)  # what these share, all of them share
    equal = [a == b for a, b in zip(reversed(first), reversed(last))]
    length = equal.index(False) if False in equal else len(equal)
    shared = first[len(first) - length :]
    begin = re.search(r"[_.-]", shared)
    ending = shared[begin.start() :] if begin else ""
    return {name.removesuffix(ending): file for name, file in files.items()}


def as_set(name: str, pairs: list[Pair], read: Callable[[str], np.ndarray], crop: Size | None = None) -> PairSet:
    images, maps = ([*column] for column in zip(*pairs))
    return PairSet(Source(name, images, None, []), maps, read, crop)


def facts(train: PairSet, test: PairSet, layout: str, classes: list[str] | None = None) -> dict[str, Any]:
    """What a result keeps of its data."""
    known = {
        "train": train.source.name, "test": test.source.name, "layout": layout,
        "train_images": len(train), "test_images": len(test),
    }  # fmt: skip
    return known if classes is None else known | {"classes": classes}


def names_of(options: PairOptions, layout: Any) -> tuple[str, str, str]:
    """Names of the training and the test pairs, and of the layout."""
    if layout:
        return options.data, options.data, layout.name
    return options.train[0], (options.test or options.train)[0], "folders"


def backwards(name: str) -> str:
    return name[::-1]
