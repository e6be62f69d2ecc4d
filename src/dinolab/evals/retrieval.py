"""Measures how well images of the same object are found: mAP on revisited Oxford and Paris, or on any labelled images.

The protocol is that of Radenovic et al. (arXiv 1803.11285), as DINO uses it (arXiv 2104.14294, section 4.2.1): cosine similarity
of class tokens, with nothing trained. M queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from dinolab.errors import UserError
from dinolab.evals.answers import NOT_COUNTED, RIGHT, WRONG, Answer, Asked, Image, keep_answers
from dinolab.evals.contract import Context, Evaluation, Figure
from dinolab.evals.ranking import (
    average_precision,
    global_average_precision,
    positions_of,
    precision_at,
    rankings,
    vote_by_best,
)
from dinolab.evals.result import Json, Measured, Result
from dinolab.evals.retrieval_sets import LABELS, Search, SearchedImages
from dinolab.evals.scores import bootstrap_mean
from dinolab.features.descriptors import Descriptor
from dinolab.features.extract import FeatureSet
from dinolab.features.neighbours import nearest
from dinolab.features.views import View
from dinolab.options import option

KS = (1, 5, 10)
SHOWN = 10  # best answers that are kept of each query
MAP = Figure("map", "mAP", published="retrieval.roxford_m@roxford5k retrieval.rparis_m@rparis6k")
HARD = Figure("hard", "mAP, Hard", published="retrieval.roxford_h@roxford5k retrieval.rparis_h@rparis6k")
EASY = Figure("easy", "mAP, Easy")
PRECISIONS = tuple(Figure(f"precision{k}", f"mP@{k}") for k in KS)
RECALLS = tuple(Figure(f"recall{k}", f"recall@{k}") for k in KS)
MET = (Figure("gap", "GAP"), Figure("gap_known", "GAP-"), Figure("accuracy", "ACC"))
MAIN_LEVEL = {"Medium": "map", "Easy": "easy", "Hard": "hard", LABELS: "map"}


class Gallery(NamedTuple):
    """Everything that is searched among."""

    matrix: torch.Tensor  # features float32 (N, D), of the set's images and then of the distractors
    row_of: np.ndarray  # the row of each image of the set, -1 where it cannot be read
    images: list[Image]  # of each row


class Scored(NamedTuple):
    """One query with its ranking."""

    row: int  # of the queries that could be read
    positions: dict[str, np.ndarray]  # of right answers by level
    right: dict[str, int]  # how many right answers there are
    best: list[Answer]


class Retrieval(Evaluation):
    title = "image retrieval"
    about = "Images of the same object are searched for by the features alone: revisited Oxford and Paris, or any labelled set."
    needs = SearchedImages
    FIGURES = (MAP, EASY, HARD, *PRECISIONS, *RECALLS, *MET)

    @dataclass
    class Options(SearchedImages.Options):
        multi_scale: bool = option(False, "average features at the scales 1, 1/sqrt(2) and 1/2")

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
        queries = scored_images(data, scored, asked)
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
    """Rank the gallery for each query."""
    for row, order in enumerate(rankings(gallery.matrix, asked.matrix(), context.device)):
        answers = {
            level: tuple(rows[rows >= 0] for rows in (gallery.row_of[listed] for listed in lists))
            for level, lists in data.answers[int(asked.kept[row])].items()
        }
        positions = {level: positions_of(order, *lists) for level, lists in answers.items()}
        right, ignored = answers[main_level(data)]
        first = order[: SHOWN + 1]
        first = first[~np.isin(first, ignored)] if data.within else first  # the query itself is no answer
        best = [Answer(gallery.images[at], verdict(at, right, ignored)) for at in first[:SHOWN].tolist()]
        counts = {level: len(np.setdiff1d(lists[0], lists[1])) for level, lists in answers.items()}
        yield Scored(row, positions, counts, best)


def main_level(data: Search) -> str:
    return next(level for level in data.levels if MAIN_LEVEL[level] == MAP.key)


def verdict(at: int, right: np.ndarray, ignored: np.ndarray) -> str:
    return NOT_COUNTED if at in ignored else RIGHT if at in right else WRONG


def figures_of(
    data: Search, scored: list[Scored], seed: int
) -> tuple[dict[str, Measured], dict[str, dict[str, float]]]:
    """The figures over all queries that have a right answer, and of each level. Raises UserError where none has one."""
    values: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, float]] = {}
    for level in data.levels:
        with_answers = [one for one in scored if one.right[level]]
        if not with_answers:
            continue
        positions = [one.positions[level] for one in with_answers]
        found = {
            MAP.key: [average_precision(one.positions[level], one.right[level]) for one in with_answers],
        }
        if level == LABELS:
            found |= {f.key: [float(one[0] < k) for one in positions] for f, k in zip(RECALLS, KS)}
        else:
            found |= {f.key: [precision_at(one, k) for one in positions] for f, k in zip(PRECISIONS, KS)}
            parts[level] = {key: float(np.mean(numbers)) for key, numbers in found.items()}
        main = MAIN_LEVEL[level] == MAP.key
        values |= {
            key if main else MAIN_LEVEL[level]: np.array(v) for key, v in found.items() if main or key == MAP.key
        }
    if MAP.key not in values:
        raise UserError(f"{data.name}: no query that can be read has a right answer that can be read")
    in_order = [figure.key for figure in Retrieval.FIGURES if figure.key in values]
    return {key: Measured(float(values[key].mean()), bootstrap_mean(values[key], seed)) for key in in_order}, parts


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


def scored_images(data: Search, scored: list[Scored], asked: FeatureSet) -> list[Asked]:
    """The queries that have a right answer, for the list and the picture of answers."""
    level, names = main_level(data), data.queries.names()
    found = []
    for one in scored:
        if one.right[level]:
            at = int(asked.kept[one.row])
            score = average_precision(one.positions[level], one.right[level])
            found.append(Asked(Image(data.queries.paths[at], names[at]), at, score, one.best))
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
