"""Images to search for and images to search among: revisited Oxford and Paris by their own layout, or any labelled images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinolab.data.decode import BrokenImage, decode, jpeg_size, read_file
from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.errors import UserError, some
from dinolab.evals.contract import Context, EvaluationOptions, Given
from dinolab.evals.retrieval_truth import Truth, read_truth
from dinolab.features.views import Boxes, clipped
from dinolab.fields import option
from dinolab.options import Columns

NAMED = 3  # missing images that a message names
LEVELS = {  # of revisited Oxford and Paris: lists of right answers, and lists that do not count
    "Easy": (("easy",), ("junk", "hard")),
    "Medium": (("easy", "hard"), ("junk",)),
    "Hard": (("hard",), ("junk", "easy")),
}
LABELS = "labels"  # the one level of labelled images
Answers = dict[
    str, tuple[np.ndarray, np.ndarray]
]  # by level: positions in the gallery that are right, and that do not count


@dataclass
class Search:
    """Queries and a gallery. N gallery images, M queries."""

    name: str
    gallery: Source
    queries: Source  # the gallery itself where each of its images is searched for among the others
    distractors: list[Source]
    answers: list[Answers]  # of each query
    boxes: Boxes | None = None  # what is searched for in each query
    known: np.ndarray | None = None  # whether the gallery has the query's class, bool (M,); None for revisited sets

    @property
    def sources(self) -> list[Source]:
        """All images, each once."""
        return [self.gallery, *([] if self.within else [self.queries]), *self.distractors]

    @property
    def within(self) -> bool:
        """Whether the queries are the gallery."""
        return self.queries is self.gallery

    @property
    def levels(self) -> list[str]:
        return list(self.answers[0])


class SearchedImages:
    """Queries and a gallery, with what is right for each query."""

    @dataclass
    class Options(Columns, EvaluationOptions):
        """Options that name the images."""

        data: str = option(
            "",
            "revisited Oxford or Paris (a folder with gnd_*.pkl and jpg/), or labelled images to search among",
            required=True,
        )
        query: str = option("", "labelled images to search for (empty: each image of data, among the others)")
        distractors: list[str] = option([], "further images to search among, which are right for no query")
        crop: bool = option(True, "cut queries of Oxford and Paris to their boxes; false: as in DINO's code")

    @staticmethod
    def open(options: "SearchedImages.Options", given: Given, context: Context) -> Search:
        """Raises UserError: no such images, no labels, no class that both have, or a ground truth that is wrong."""
        if not options.data:
            raise UserError("data is not set: name labelled images, or a folder of revisited Oxford or Paris")
        further = [open_source(name, options, option="distractors") for name in dict.fromkeys(options.distractors)]
        file = find_truth(Path(options.data))
        if file is None:
            return labelled(options, further)
        if options.query:
            raise UserError(f"query={options.query}: {file} names the queries; leave query empty")
        return revisited(file, options.crop, further)


def find_truth(folder: Path) -> Path | None:
    """The ground truth in a folder; None where there is none. Raises UserError where there are several."""
    found = sorted(file for ending in ("pkl", "json") for file in folder.glob(f"gnd_*.{ending}"))
    if len({file.stem for file in found}) > 1:
        raise UserError(f"data={folder}: several ground truths ({', '.join(f.name for f in found)}); keep one of them")
    return found[0] if found else None


def revisited(file: Path, crop: bool, distractors: list[Source]) -> Search:
    """Revisited Oxford or Paris, from its ground truth and the images in jpg/ beside it."""
    truth = read_truth(file)
    there = files_by_name(file.parent / "jpg")
    missing = [name for name in (*truth.gallery, *truth.queries) if name not in there]
    if missing:
        count = f"{len(missing):,} of {len(truth.gallery) + len(truth.queries):,} images"
        raise UserError(f"{file}: names {count} that are not in {file.parent / 'jpg'}: {some(missing, NAMED, ', ')}")
    name = file.stem.removeprefix("gnd_")
    gallery, queries = (
        Source(named, [there[image] for image in images], None, [])
        for named, images in ((name, truth.gallery), (f"queries of {name}", truth.queries))
    )
    answers = [
        {level: (joined(lists, right), joined(lists, not_counted)) for level, (right, not_counted) in LEVELS.items()}
        for lists in truth.lists
    ]
    check_boxes(file, truth, queries)
    name += " with distractors" if distractors else ""  # which published figures do not have
    return Search(name, gallery, queries, distractors, answers, Boxes(tuple(truth.boxes)) if crop else None)


def files_by_name(folder: Path) -> dict[str, str]:
    """The files of a folder by their names with and without ending. Raises UserError where there is no such folder."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{folder}: the images of a ground truth belong there ({error.strerror})") from error
    root = folder.absolute()
    return {known: str(root / name) for name in names for known in (Path(name).stem, name)}


def joined(lists: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    return np.concatenate([lists[name] for name in names])


def check_boxes(file: Path, truth: Truth, queries: Source) -> None:
    """Raises UserError for a box that has no part in its image."""
    for name, box, path in zip(truth.queries, truth.boxes, queries.paths):
        try:
            data = read_file(path)
            height, width = jpeg_size(data) or decode(data, path).shape[:2]
        except BrokenImage:  # left out, with a warning
            continue
        left, top, right, bottom = clipped(box, height, width)
        if left >= right or top >= bottom:
            corners = ", ".join(f"{corner:g}" for corner in box)
            raise UserError(f"{file}: the box of query {name} ({corners}) is outside its {width} x {height} image")


def labelled(options: SearchedImages.Options, distractors: list[Source]) -> Search:
    """Labelled images: an answer is right if it has the query's class."""
    gallery = open_source(options.data, options, need_labels=True, option="data")
    if not options.query:
        members = members_by_class(gallery, gallery)
        assert gallery.labels is not None
        answers = [{LABELS: (members[label], np.array([at]))} for at, label in enumerate(gallery.labels.tolist())]
        if not any(len(one) > 1 for one in members):
            raise UserError(f"data={options.data}: no class has two images, so no query has a right answer")
        return Search(gallery.name, gallery, gallery, distractors, answers, known=np.ones(len(gallery), bool))
    queries = open_source(options.query, options, need_labels=True, option="query")
    assert queries.labels is not None
    members, nothing = members_by_class(gallery, queries), np.zeros(0, np.int64)
    answers = [{LABELS: (members[label], nothing)} for label in queries.labels.tolist()]
    known = np.array([len(one[LABELS][0]) > 0 for one in answers])
    if not known.any():
        raise UserError(
            f"{gallery.name} and {queries.name} have no class in common ({some(gallery.classes, NAMED, ', ')} against "
            f"{some(queries.classes, NAMED, ', ')}); name two sources that share classes"
        )
    return Search(queries.name, gallery, queries, distractors, answers, known=known)


def members_by_class(gallery: Source, queries: Source) -> list[np.ndarray]:
    """For each class of the queries the positions of the gallery's images of that class, matched by name."""
    number = {name: n for n, name in enumerate(gallery.classes)}
    return [np.flatnonzero(gallery.labels == number.get(name, -1)) for name in queries.classes]
