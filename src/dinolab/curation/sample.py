"""A balanced sample of images, from a hierarchy of clusters (arXiv 2405.15613)."""

import math
from typing import Any

import numpy as np
import torch.nn.functional as F

from dinolab.config import to_dict
from dinolab.curation.decisions import before, undecided, write_stage
from dinolab.curation.hierarchy import Level, build_tree, in_order, sample_tree
from dinolab.curation.options import SampleOptions
from dinolab.errors import UserError
from dinolab.features.store import Store
from dinolab.parallel import choose_device

STAGE = "sample"
FIRST, LESS = (
    4,
    5,
)  # clusters of the first level in roots of the number of images; how many times fewer there are in each further one


def sample(store: Store, options: SampleOptions) -> dict[str, Any]:
    """Draw images so that regions of the embedding space count alike; writes the stage's files.

    Returns:
        Figures: "images" before and "kept" after, and the number of "clusters" of each level.

    Raises:
        UserError: fewer images are left than are to be drawn, or the levels do not shrink.
    """
    device = choose_device(options.search_device, "search_device=")
    rows, rng = before(store, STAGE), np.random.default_rng(options.seed)
    if options.size > len(rows):
        raise UserError(f"size={options.size}: only {len(rows):,} images are left to draw from; name a smaller size")
    counts = choose_counts(len(rows), options)
    vectors = F.normalize(store.vectors(rows).to(device).float(), dim=1)
    above = [len(rows), *counts]
    closest = [max(1, round(whole / count / 2)) for whole, count in zip(above, counts)]  # half of a mean cluster
    levels = build_tree(vectors, counts, closest, rng, options.resamplings)
    drawn = rows[sample_rows(vectors, levels, options, rng)]
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


def sample_rows(vectors: Any, levels: list[Level], options: SampleOptions, rng: np.random.Generator) -> np.ndarray:
    """Rows of `vectors` that are drawn, int64 (size,), in rising order."""
    if options.draw == "random":
        return sample_tree(levels, options.size, rng)
    order = in_order(vectors, *levels[0], most=len(vectors))  # cluster by cluster, the closest first
    first = levels[0]._replace(clusters=levels[0].clusters[order])
    return np.sort(order.cpu().numpy()[sample_tree([first, *levels[1:]], options.size, rng, "closest")])
