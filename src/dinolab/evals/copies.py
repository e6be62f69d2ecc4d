"""Measures how well originals are found by distorted copies of them: mAP on Copydays, or on any images.

The protocol of DINO (arXiv 2104.14294, section 4.2.1): class token joined with GeM-pooled patches, whitened by a PCA that is learned
on other images, cosine similarity, the best 20 answers. M copies.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.config import parse_size
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.answers import RIGHT, WRONG, Answer, Asked, Image, keep_answers
from dinolab.evals.contract import Context, Evaluation, Figure, Finds
from dinolab.evals.copies_sets import COPYDAYS, STRONG, Block, CopiedImages, OriginalsAndCopies
from dinolab.evals.ranking import average_precision
from dinolab.evals.result import Measured, Result
from dinolab.evals.roots import find_each
from dinolab.evals.scores import bootstrap_mean
from dinolab.features.descriptors import KINDS, Descriptor
from dinolab.features.extract import FeatureSet
from dinolab.features.neighbours import nearest
from dinolab.features.views import View
from dinolab.features.whitening import learn_whitening
from dinolab.fields import option

log = logging.getLogger(__name__)
BEST = 20  # answers that count
SHOWN = 10
MAP = Figure("map", "mAP", published=f"copy_detection.copydays_strong_map@{COPYDAYS}")
FIRST = Figure("first", "found first")


WHERE = {
    (
        "copydays",
    ): "Copydays: copydays with original, strong, jpegqual and crops; from https://lear.inrialpes.fr/~jegou/data.php"
}


class CopyDetection(Evaluation):
    title = "copy detection"
    about = "Originals are searched for by distorted copies of them: Copydays, folders of both, or copies made of any images."
    needs = OriginalsAndCopies
    suites = ("dino",)
    FIGURES = (MAP, FIRST)

    @dataclass
    class Options(OriginalsAndCopies.Options):
        size: str = option(
            "320", "images are resized to this side in pixels, or height and width as 224x336", check=parse_size
        )
        tokens: str = option("both", "features: class token, patches by GeM pooling, or both joined", choices=KINDS)

    def find(self, root: Path) -> Finds:
        return find_each(root, WHERE, lambda folder: (folder / "original").is_dir())

    def run(self, encoder: Any, data: CopiedImages, options: "CopyDetection.Options", context: Context) -> Result:
        network = encoder if options.tokens == "cls" else Descriptor(encoder, options.tokens)
        view = View(context.size, "squash")
        whitening = learn_on(network, data.whitening, view, context)
        places = (data.originals, *data.distractors)
        found = [context.extract(network, source, view=view) for source in places]
        features = torch.cat([whitening(one.matrix()) for one in found])
        images = [image for source, one in zip(places, found, strict=True) for image in images_of(source, one)]
        database = Database(features, rows_of(found[0], len(data.originals)), images)
        searched = []
        for block in data.blocks:
            copies = context.extract(network, block.copies, view=replace(view, change=block.change))
            searched.append(search(database, whitening(copies.matrix()), block, copies, context))
        named = {block.name: one for block, one in zip(data.blocks, searched, strict=True) if one}
        if not named:
            raise UserError(f"{data.name}: no copy and its original can be read")
        main = named.get(STRONG) or [one for block in named.values() for one in block]
        figures = {
            key: Measured(float(v.mean()), bootstrap_mean(v, options.seed)) for key, v in values_of(main).items()
        }
        parts = {name: {key: float(v.mean()) for key, v in values_of(one).items()} for name, one in named.items()}
        change = next((block.change for block in data.blocks if block.name == STRONG), None)
        keep_answers(context.out, f"{context.encoder['name']} on {data.name}", main, change)
        facts = {
            "data": options.data,
            "copies": options.copies,
            **options.chosen(),
            "test": data.name,
            "test_images": len(main),
            "originals": len(found[0]),
            "database_images": len(features),
            "copies_in_all": sum(map(len, named.values())),
        }
        settings = {name: getattr(options, name) for name in ("tokens", "made", "distractors", "whitening")}
        return context.result(settings, data=facts, figures=figures, parts=parts)


class Database(NamedTuple):
    """What is searched among: the originals that could be read, and then the distractors."""

    features: Tensor  # float32 (N, D)
    row_of: np.ndarray  # the row of each original, -1 where it cannot be read
    images: list[Image]  # of each row


def learn_on(network: Any, source: Source | None, view: View, context: Context) -> Callable[[Tensor], Tensor]:
    """The whitening learned on these images; without any, features stay as they are."""
    if source is None:
        return lambda features: features
    features = context.extract(network, source, view=view).matrix()
    if len(features) < features.shape[1]:
        log.warning(
            "whitening=%s: %s images for %s features; with fewer images than features, some directions are guesses",
            source.name, f"{len(features):,}", f"{features.shape[1]:,}",
        )  # fmt: skip
    return learn_whitening(features).apply


def images_of(source: Source, found: FeatureSet) -> list[Image]:
    names = source.names()
    return [Image(source.paths[at], names[at]) for at in found.kept.tolist()]


def rows_of(found: FeatureSet, images: int) -> np.ndarray:
    """The row of each image of a source, int (images,), -1 where it cannot be read."""
    rows = np.full(images, -1)
    rows[found.kept.numpy()] = np.arange(len(found))
    return rows


def search(database: Database, features: Tensor, block: Block, copies: FeatureSet, context: Context) -> list[Asked]:
    """The best answers for each copy whose original could be read. An original beyond the best 20 counts as not found."""
    kept, names = copies.kept.numpy(), block.copies.names()
    originals = database.row_of[block.original[kept]]
    best = nearest(database.features, features.to(context.device), BEST)[1].cpu().numpy()
    asked = []
    for at, original, answers in zip(kept.tolist(), originals.tolist(), best, strict=True):
        if original >= 0:
            score = average_precision(np.flatnonzero(answers == original), 1)
            shown = [
                Answer(database.images[row], RIGHT if row == original else WRONG) for row in answers[:SHOWN].tolist()
            ]
            asked.append(Asked(Image(block.copies.paths[at], names[at]), at, score, shown))
    return asked


def values_of(asked: list[Asked]) -> dict[str, np.ndarray]:
    """By figure the value of each copy."""
    return {
        MAP.key: np.array([one.average_precision for one in asked]),
        FIRST.key: np.array([float(one.best[0].verdict == RIGHT) for one in asked]),
    }
