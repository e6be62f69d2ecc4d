"""A balanced sample of images, from a hierarchy of clusters (arXiv 2405.15613)."""

import math
from typing import Any

import numpy as np
import torch.nn.functional as F

from dinolab.config import to_dict
from dinolab.curation.decisions import await_stage, before, parts_of_stage, undecided, write_stage
from dinolab.curation.hierarchy import Clustering, Level, build_tree, sample_tree, sort_by
from dinolab.curation.options import SampleOptions
from dinolab.errors import UserError
from dinolab.features.store import Embeddings, Store
from dinolab.parallel import choose_device

STAGE = "sample"
FIRST = 4  # clusters of the first level, in roots of the number of images
LESS = 5  # how many times fewer there are in each further level


def sample(store: Store, options: SampleOptions, progress: bool = False) -> dict[str, Any]:
    """Draw images so that regions of the embedding space count alike; writes the stage's files.

    Returns:
        Figures: "images" before and "kept" after, and the number of "clusters" of each level.

    Raises:
        UserError: fewer images are left than are to be drawn, or the levels do not shrink.
    """
    device = choose_device(options.search_device, "search_device=")
    rows = before(store, STAGE)
    if options.size > len(rows):
        raise UserError(f"size={options.size}: only {len(rows):,} images are left to draw from; name a smaller size")
    counts = choose_counts(len(rows), options)
    facts = {name: getattr(options, name) for name in ("seed", "resamplings", "iterations", "learned")}
    parts = parts_of_stage(store, STAGE, rows, {**facts, "clusters": counts[0]}, progress)
    vectors = Embeddings((store, rows), change=lambda block: F.normalize(block.to(device).float(), dim=1))
    above = [len(rows), *counts]
    closest = [max(1, round(whole / count / 2)) for whole, count in zip(above, counts)]  # half of a mean cluster
    clustering, drawing = np.random.default_rng(options.seed).spawn(2)
    how = Clustering(options.resamplings, options.iterations, options.learned)
    levels = build_tree(vectors, counts, closest, clustering, how, parts)
    if parts.crew.rank:
        return await_stage(store, STAGE, to_dict(options))
    drawn = rows[sample_rows(levels, options, drawing)]
    verdicts = undecided(len(store))
    of = levels[0].clusters.cpu().numpy()
    verdicts.reason[rows] = [f"not drawn from its cluster {number}" for number in of]
    verdicts.kept[drawn] = True
    place = np.searchsorted(rows, drawn)
    verdicts.reason[drawn] = [f"drawn from its cluster {number}" for number in of[place]]
    figures = {"images": len(rows), "kept": len(drawn), "clusters": counts}
    write_stage(store, STAGE, verdicts, to_dict(options), figures)
    return figures


def choose_counts(images: int, options: SampleOptions) -> list[int]:
    """The number of clusters of each level. Raises UserError where a level has not fewer than the one below."""
    if options.clusters:
        counts = options.clusters
    else:
        first = max(1, min(images // 4, round(FIRST * math.sqrt(images))))
        counts = [max(1, first // LESS**level) for level in range(options.levels)]
        counts = [count for level, count in enumerate(counts) if not level or count < counts[level - 1]]
    if any(count > most for count, most in zip(counts, [images, *(count - 1 for count in counts)])):
        raise UserError(
            f"clusters={counts}: each level needs fewer clusters than the one below, the first at most {images:,}"
        )
    return counts


def sample_rows(levels: list[Level], options: SampleOptions, rng: np.random.Generator) -> np.ndarray:
    """Rows of the first level that are drawn, int64 (size,), in rising order."""
    first = levels[0]
    if options.draw == "random" or first.squares is None:
        return sample_tree(levels, options.size, rng)
    order = sort_by(first.squares, first.clusters.cpu(), len(first.centroids), len(first.clusters))
    ordered = first._replace(clusters=first.clusters.cpu()[order])  # cluster by cluster, the closest first
    return np.sort(order.numpy()[sample_tree([ordered, *levels[1:]], options.size, rng, "closest")])
