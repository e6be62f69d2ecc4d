"""Measures how well images of the same object are found: mAP on revisited Oxford and Paris, or on any labelled images.

The protocol is that of Radenovic et al. (arXiv 1803.11285), as DINO uses it (arXiv 2104.14294, section 4.2.1): cosine similarity
of class tokens, with nothing trained. M queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dinolab.errors import UserError
from dinolab.evals.answers import NOT_COUNTED, RIGHT, WRONG, Answer, Asked, Image, keep_answers
from dinolab.evals.contract import SUITES, Context, Evaluation, Figure, Finds
from dinolab.evals.ranking import (
    average_precision,
    global_average_precision,
    positions_of,
    precision_at,
    rankings,
    vote_by_best,
)
from dinolab.evals.result import Json, Measured, Result
from dinolab.evals.retrieval_sets import LABELS, Search, SearchedImages, find_truth
from dinolab.evals.roots import find_each
from dinolab.evals.scores import bootstrap_mean
from dinolab.features.descriptors import Descriptor
from dinolab.features.extract import FeatureSet
from dinolab.features.neighbours import nearest
from dinolab.features.views import View
from dinolab.fields import option

KS = (1, 5, 10)
SHOWN = 10  # best answers that are kept of each query
MAP = Figure("map", "mAP", published="retrieval.roxford_m@roxford5k retrieval.rparis_m@rparis6k")
HARD = Figure("hard", "mAP, Hard", published="retrieval.roxford_h@roxford5k retrieval.rparis_h@rparis6k")
EASY = Figure("easy", "mAP, Easy")
PRECISIONS = tuple(Figure(f"precision{k}", f"mP@{k}") for k in KS)
RECALLS = tuple(Figure(f"recall{k}", f"recall@{k}") for k in KS)
MET = (Figure("gap", "GAP"), Figure("gap_known", "GAP-"), Figure("accuracy", "ACC"))
FURTHER_LEVELS = {"Easy": EASY.key, "Hard": HARD.key}


FROM = "from http://cmp.felk.cvut.cz/revisitop"
WHERE = {
    ("roxford5k",): f"revisited Oxford: roxford5k with gnd_roxford5k.pkl and jpg; {FROM}",
    ("rparis6k",): f"revisited Paris: rparis6k with gnd_rparis6k.pkl and jpg; {FROM}",
}


class Gallery(NamedTuple):
    """Everything that is searched among."""

    matrix: torch.Tensor  # features float32 (N, D), of the set's images and then of the distractors
    row_of: np.ndarray  # the row of each image of the set, -1 where it cannot be read
    images: list[Image]  # of each row


class Scored(NamedTuple):
    """One query with its ranking."""

    at: int  # its position in its source
    positions: dict[str, np.ndarray]  # of its right answers in the ranking, by level
    best: list[Answer]


class Retrieval(Evaluation):
    title = "image retrieval"
    about = "Images of the same object are searched for by the features alone: revisited Oxford and Paris, or any labelled set."
    needs = SearchedImages
    suites = SUITES
    FIGURES = (MAP, EASY, HARD, *PRECISIONS, *RECALLS, *MET)

    @dataclass
    class Options(SearchedImages.Options):
        multi_scale: bool = option(False, "average features at the scales 1, 1/sqrt(2) and 1/2")

    def find(self, root: Path) -> Finds:
        return find_each(root, WHERE, find_truth)

    def run(self, encoder: Any, data: Search, options: "Retrieval.Options", context: Context) -> Result:
        network = Descriptor(encoder, multi_scale=True) if options.multi_scale else encoder
        view = View(context.size, "within")
        found = context.extract(network, data.gallery, view=view)
        asked = found if data.within else context.extract(network, data.queries, view=replace(view, change=data.boxes))
        gallery = gather(data, found, [context.extract(network, one, view=view) for one in data.distractors])
        scored = [*score(data, gallery, asked, context)]
        figures, parts = figures_of(data, scored, options.seed)
        if data.known is not None and not data.known.all():
            figures |= by_met(data, gallery, found, asked, context)
        queries = with_answers(data, scored)
        keep_answers(context.out, f"{context.encoder['name']} on {data.name}", queries, data.boxes)
        settings = {"multi_scale": options.multi_scale, "crop": options.crop, "distractors": options.distractors}
        return context.result(
            settings, data=facts(data, options, asked, gallery, queries), figures=figures, parts=parts
        )


def gather(data: Search, found: FeatureSet, further: list[FeatureSet]) -> Gallery:
    row_of = np.full(len(data.gallery), -1)
    row_of[found.kept.numpy()] = np.arange(len(found))
    images = [
        Image(source.paths[at], name)
        for source, features in zip((data.gallery, *data.distractors), (found, *further), strict=True)
        for at, name in ((at, names[at]) for names in [source.names()] for at in features.kept.tolist())
    ]
    return Gallery(torch.cat([one.matrix() for one in (found, *further)]), row_of, images)


def score(data: Search, gallery: Gallery, asked: FeatureSet, context: Context) -> Iterator[Scored]:
    """Rank the gallery for each query that could be read."""
    queries = asked.kept.tolist()
    for at, order in zip(queries, rankings(gallery.matrix, asked.matrix(), context.device), strict=True):
        answers = {
            level: tuple(rows[rows >= 0] for rows in (gallery.row_of[listed] for listed in lists))
            for level, lists in data.answers[at].items()
        }
        positions = {level: positions_of(order, *lists) for level, lists in answers.items()}
        right, ignored = answers[main_level(data)]
        first = order[: SHOWN + 1]
        first = first[~np.isin(first, ignored)] if data.within else first  # the query itself is no answer
        yield Scored(
            at, positions, [Answer(gallery.images[row], verdict(row, right, ignored)) for row in first[:SHOWN]]
        )


def main_level(data: Search) -> str:
    """The level whose mAP is the main figure."""
    return LABELS if LABELS in data.levels else "Medium"


def verdict(row: int, right: np.ndarray, ignored: np.ndarray) -> str:
    return NOT_COUNTED if row in ignored else RIGHT if row in right else WRONG


def figures_of(
    data: Search, scored: list[Scored], seed: int
) -> tuple[dict[str, Measured], dict[str, dict[str, float]]]:
    """The figures, with intervals over queries, and those of each level of a revisited set.

    Raises UserError where no query has a right answer at the main level.
    """
    every = {level: values_of(level, scored) for level in data.levels}
    found = {level: values for level, values in every.items() if len(values[MAP.key])}
    if main_level(data) not in found:
        raise UserError(f"{data.name}: no query that can be read has a right answer that can be read")
    values = found[main_level(data)]
    values = values | {key: found[level][MAP.key] for level, key in FURTHER_LEVELS.items() if level in found}
    figures = {
        figure.key: Measured(float(values[figure.key].mean()), bootstrap_mean(values[figure.key], seed))
        for figure in Retrieval.FIGURES
        if figure.key in values
    }
    levels = {level: {key: float(v.mean()) for key, v in one.items()} for level, one in found.items()}
    return figures, {} if LABELS in levels else levels


def values_of(level: str, scored: list[Scored]) -> dict[str, np.ndarray]:
    """By figure the value of each query that has a right answer at this level."""
    positions = [one.positions[level] for one in scored if len(one.positions[level])]
    found = {MAP.key: [average_precision(one, len(one)) for one in positions]}
    for k, recall, precision in zip(KS, RECALLS, PRECISIONS):
        if level == LABELS:
            found[recall.key] = [float(one[0] < k) for one in positions]
        else:
            found[precision.key] = [precision_at(one, k) for one in positions]
    return {key: np.array(values) for key, values in found.items()}


def by_met(
    data: Search, gallery: Gallery, found: FeatureSet, asked: FeatureSet, context: Context
) -> dict[str, Measured]:
    """GAP, GAP- and ACC of the Met dataset, by the nearest image: for queries of which some show nothing that the gallery has."""
    assert data.known is not None and data.queries.labels is not None
    number = {name: n for n, name in enumerate(data.gallery.classes)}
    truth = np.array([number.get(data.queries.classes[label], -1) for label in asked.labels.tolist()])
    similarities, rows = nearest(gallery.matrix[: len(found)], asked.matrix().to(context.device), 1)
    predicted, confidences = vote_by_best(similarities.cpu(), found.labels[rows.cpu()], len(number))
    known, right = truth >= 0, predicted == truth
    values = (
        global_average_precision(right, confidences, known),
        global_average_precision(right[known], confidences[known], known[known]),
        float(right[known].mean()),
    )
    return {figure.key: Measured(value) for figure, value in zip(MET, values)}


def with_answers(data: Search, scored: list[Scored]) -> list[Asked]:
    """The queries that have a right answer, for the list and the picture of answers."""
    names = data.queries.names()
    found = []
    for one in scored:
        positions = one.positions[main_level(data)]
        if len(positions):
            image = Image(data.queries.paths[one.at], names[one.at])
            found.append(Asked(image, one.at, average_precision(positions, len(positions)), one.best))
    return found


def facts(
    data: Search, options: "Retrieval.Options", asked: FeatureSet, gallery: Gallery, queries: list[Asked]
) -> Json:
    return {
        "data": options.data,
        "query": options.query,
        **options.chosen(),
        "test": data.name,
        "test_images": len(queries),
        "gallery_images": len(gallery.images),
        "queries_without_answers": len(asked) - len(queries),
        "unreadable": sum(map(len, data.sources)) - len(gallery.images) - (0 if data.within else len(asked)),
    }
