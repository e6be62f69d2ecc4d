"""The twelve data sets of transfer by a linear layer (SimCLR, arXiv 2002.05709, with CUB; DINOv2, arXiv 2304.07193, table 8).

A set is looked for under a root: as folders NAME/train and NAME/test with a folder for each class, as a dataset of Hugging Face
with such splits, or in its authors' layout, which torchvision reads for most of them. Training and validation images are joined.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.roots import below, folders_of, plain, train_and_test
from dinolab.options import Columns

ACCURACY, PER_CLASS, MAP = "accuracy", "per_class", "map"  # metrics
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category")  # of datasets of Hugging Face
OF_CALTECH = 30  # training images of each class; the rest are test images
OF_SUN = 50  # of each class, training and test images, where the authors' partition is not there

Labelled = list[tuple[str, str]]  # paths of images with their classes


class Sides(NamedTuple):
    """Training and test images of a set; of several labels an image may have, -1 for no, 1 for yes and 0 for left out."""

    train: Source
    test: Source
    several: tuple[np.ndarray, np.ndarray] | None = None  # int8 (N, C) of both, where images have several labels


@dataclass(frozen=True)
class Known:
    """One of the twelve sets."""

    title: str
    metric: str
    folders: tuple[str, ...]  # its names; the last one is that of its authors' layout
    where: str  # where people usually get it
    read: Callable[[Path], tuple[Labelled, Labelled]] | None = None  # from the root, in the authors' layout
    marker: str = ""  # file or folder in its folder by which the authors' layout is known


def torchvision_set(name: str, trains: Sequence[str], test: str) -> Callable[[Path], tuple[Labelled, Labelled]]:
    """A reader by torchvision's class of this name and its splits."""

    def read(root: Path) -> tuple[Labelled, Labelled]:
        return [one for split in trains for one in listed(name, root, split=split)], listed(name, root, split=test)

    return read


def listed(name: str, root: Path, **how: Any) -> Labelled:
    """The images and classes that one of torchvision's datasets lists. Nothing is downloaded and no image is opened."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise UserError(f"{root}: the layout of {name} is read by torchvision: pip install torchvision") from error
    try:
        found = getattr(datasets, name)(root, download=False, **how)
    except (RuntimeError, OSError, ValueError, LookupError) as error:
        raise UserError(f"{root}: {name} cannot be read ({str(error).splitlines()[0]})") from error
    if hasattr(found, "_samples"):
        pairs: Iterable[tuple[Any, int]] = found._samples
    else:
        pairs = zip(found._images if hasattr(found, "_images") else found._image_files, found._labels)
    return [(str(path), str(found.classes[label])) for path, label in pairs]


def sun397(root: Path) -> tuple[Labelled, Labelled]:
    """The authors' first partition, Training_01.txt and Testing_01.txt, where it is there; else 50 and 50 images of each class."""
    folder = root / "SUN397"
    found = sorted(listed("SUN397", root))
    partition = [next(iter(sorted(folder.rglob(f"{side}_01.txt"))), None) for side in ("Training", "Testing")]
    if all(partition):
        by_name = {"/" + Path(path).relative_to(folder).as_posix(): (path, label) for path, label in found}
        names = [[line.strip() for line in file.read_text().splitlines()] for file in partition if file]
        train, test = ([by_name[name] for name in side if name in by_name] for side in names)
        return train, test
    train, rest = first_of_each(found, OF_SUN)
    return train, first_of_each(rest, OF_SUN)[0]


def caltech101(root: Path) -> tuple[Labelled, Labelled]:
    """30 images of each class, drawn at random, to train on; the others are test images."""
    folder = root / "caltech101" / "101_ObjectCategories"
    classes = [one for one in folders_of(folder) if one.name != "BACKGROUND_Google"]
    return first_of_each([(str(file), one.name) for one in classes for file in sorted(one.glob("*.jpg"))], OF_CALTECH)


def first_of_each(found: Labelled, number: int) -> tuple[Labelled, Labelled]:
    """`number` images of each class in a fixed random order, and the others."""
    order = np.random.default_rng(0).permutation(len(found))
    chosen: set[int] = set()
    count: dict[str, int] = {}
    for n in order.tolist():
        label = found[n][1]
        if count.get(label, 0) < number:
            count[label] = count.get(label, 0) + 1
            chosen.add(n)
    return [found[n] for n in sorted(chosen)], [one for n, one in enumerate(found) if n not in chosen]


def cub(root: Path) -> tuple[Labelled, Labelled]:
    folder = root / "CUB_200_2011"
    names, sides = (columns_of(folder / file) for file in ("images.txt", "train_test_split.txt"))
    place = {number: (str(folder / "images" / name), name.split("/")[0]) for number, name in names}
    train, test = ([place[number] for number, is_train in sides if is_train == wanted] for wanted in "10")
    return train, test


def columns_of(file: Path) -> list[list[str]]:
    """The words of each line. Raises UserError where the file cannot be read."""
    try:
        return [line.split() for line in file.read_text(errors="replace").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


def voc2007(folder: Path) -> Sides:
    """Pascal VOC 2007: for each class a list of images with 1 (there), -1 (not there) or 0 (only hard to see, left out)."""
    lists = folder / "ImageSets" / "Main"
    classes = sorted(file.name.removesuffix("_trainval.txt") for file in lists.glob("*_trainval.txt"))
    if not classes:
        raise UserError(f"{lists}: no lists CLASS_trainval.txt, as Pascal VOC 2007 has")
    sources, labels = [], []
    for side in ("trainval", "test"):
        columns = [columns_of(lists / f"{name}_{side}.txt") for name in classes]
        images = [line[0] for line in columns[0]]
        if any([line[0] for line in column] != images for column in columns):
            raise UserError(f"{lists}: the lists of classes for {side} do not name the same images")
        labels.append(np.array([[int(line[1]) for line in column] for column in columns], np.int8).T)
        paths = [str(folder / "JPEGImages" / f"{name}.jpg") for name in images]
        sources.append(Source(f"{folder.name}, {side}", paths, None, classes))
    return Sides(sources[0], sources[1], (labels[0], labels[1]))


KNOWN = (
    Known("Food-101", ACCURACY, ("food101", "food-101"), "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
          torchvision_set("Food101", ["train"], "test"), "meta/train.json"),
    Known("CIFAR-10", ACCURACY, ("cifar10", "cifar-10-batches-py"), "https://www.cs.toronto.edu/~kriz/cifar.html", marker="test_batch"),
    Known("CIFAR-100", ACCURACY, ("cifar100", "cifar-100-python"), "https://www.cs.toronto.edu/~kriz/cifar.html", marker="test"),
    Known("SUN397", ACCURACY, ("sun397", "SUN397"), "https://vision.princeton.edu/projects/2010/SUN/", sun397, "ClassName.txt"),
    Known("Cars", ACCURACY, ("cars", "stanford-cars", "stanford_cars"),
          "a mirror of Stanford Cars, such as Hugging Face's tanganke/stanford_cars",
          torchvision_set("StanfordCars", ["train"], "test"), "devkit"),
    Known("Aircraft", PER_CLASS, ("aircraft", "fgvc-aircraft", "fgvc-aircraft-2013b"),
          "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
          torchvision_set("FGVCAircraft", ["trainval"], "test"), "data/variants.txt"),
    Known("VOC 2007", MAP, ("voc2007", "VOC2007"), "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/", marker="ImageSets/Main"),
    Known("DTD", ACCURACY, ("dtd",), "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
          torchvision_set("DTD", ["train", "val"], "test"), "dtd/labels/train1.txt"),
    Known("Pets", PER_CLASS, ("pets", "oxford-pets", "oxford-iiit-pet"), "https://www.robots.ox.ac.uk/~vgg/data/pets/",
          torchvision_set("OxfordIIITPet", ["trainval"], "test"), "annotations/trainval.txt"),
    Known("Caltech-101", PER_CLASS, ("caltech101",), "https://data.caltech.edu/records/mzrjq-6wc02", caltech101, "101_ObjectCategories"),
    Known("Flowers", PER_CLASS, ("flowers", "flowers102", "flowers-102"), "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
          torchvision_set("Flowers102", ["train", "val"], "test"), "setid.mat"),
    Known("CUB", ACCURACY, ("cub", "cub200", "CUB_200_2011"),
          "https://www.vision.caltech.edu/datasets/cub_200_2011/", cub, "train_test_split.txt"),
)  # fmt: skip


class Found(NamedTuple):
    """A set that lies under the root."""

    title: str
    metric: str
    folder: Path
    known: Known | None  # None where it is read as folders or a dataset with training and test images

    def open(self, root: Path, columns: Columns) -> Sides:
        """Raises UserError where a file is missing or images have no labels."""
        known = self.known
        if known is None:
            train, test = (open_labelled(str(side), columns) for side in train_and_test(self.folder) or ())
            return Sides(train, test)
        if known.metric == MAP:
            return voc2007(self.folder)
        if known.read is None:
            return Sides(
                open_labelled(str(self.folder), columns), open_labelled(str(self.folder / known.marker), columns)
            )
        train, test = (as_source(known.title, side) for side in known.read(root))
        return Sides(train, test)


def open_labelled(path: str, columns: Columns) -> Source:
    """A labelled source; the column of the labels may have any of the usual names."""
    for name in dict.fromkeys((columns.label_column, *LABEL_COLUMNS)):
        source = open_source(path, replace(columns, label_column=name), option="root")
        if source.labels is not None:
            return source
    raise UserError(f"{path} has no labels: {source.unlabelled}")


def as_source(title: str, images: Labelled) -> Source:
    if not images:
        raise UserError(f"{title}: no images where its layout says")
    classes = sorted({label for _, label in images})
    number = {label: n for n, label in enumerate(classes)}
    return Source(
        title, [path for path, _ in images], np.array([number[label] for _, label in images], np.int64), classes
    )


def find_sets(root: Path) -> tuple[list[Found], list[str]]:
    """The sets under a root, the twelve first and then any other folder with train/ and test/; and what is missing, with its place."""
    found, missing, taken = [], [], set()
    for known in KNOWN:
        folder = below(root, known.folders) or below(root / "VOCdevkit", known.folders)
        if folder and known.metric != MAP and train_and_test(folder):
            found.append(Found(known.title, known.metric, folder, None))
        elif folder and (folder / known.marker).exists():
            found.append(Found(known.title, known.metric, folder, known))
        else:
            missing.append(f"{known.title}: {known.folders[-1]}; from {known.where}")
            continue
        taken.add(folder)
    further = [folder for folder in folders_of(root) if folder not in taken and train_and_test(folder)]
    own_names = {plain(one.title) for one in found}
    found += [Found(one.name, ACCURACY, one, None) for one in further if plain(one.name) not in own_names]
    return found, missing
