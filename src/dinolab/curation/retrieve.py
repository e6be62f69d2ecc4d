"""Images that are like curated ones (DINOv2, arXiv 2304.07193, section 3 and appendix A.4)."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dinolab.config import to_dict
from dinolab.curation.decisions import Verdicts, before, undecided, write_stage
from dinolab.curation.graph import search
from dinolab.curation.kmeans import assign, kmeans
from dinolab.curation.options import RetrieveOptions
from dinolab.curation.references import References, open_references
from dinolab.features.store import Store
from dinolab.parallel import choose_device

STAGE = "retrieve"
ITERATIONS = 20  # of k-means


def retrieve(store: Store, options: RetrieveOptions, progress: bool = False) -> dict[str, Any]:
    """Keep the images that curated ones bring in, each once; writes the stage's files.

    Returns:
        Figures: "images" before and "kept" after, the number of "curated" images; of neighbours, how many were "found_again" by
        another curated image, and the "recall" of the search; of clusters, how many were "taken".
    """
    device = choose_device(options.search_device, "search_device=")
    curated = open_references(store, "curated", [options.curated], options, progress)
    rows, rng = before(store, STAGE), np.random.default_rng(options.seed)
    verdicts = undecided(len(store))
    if options.by == "neighbours":
        figures = take_neighbours(store, rows, verdicts, curated, options, rng, device, progress)
    else:
        figures = take_clusters(store, rows, verdicts, curated, options, rng, device)
    figures = {"images": len(rows), "curated": len(curated.rows), "kept": int(verdicts.kept.sum()), **figures}
    write_stage(store, STAGE, verdicts, to_dict(options), figures)
    return figures


def take_neighbours(
    store: Store, rows: np.ndarray, verdicts: Verdicts, curated: References, options: RetrieveOptions,
    rng: np.random.Generator, device: torch.device, progress: bool,
) -> dict[str, Any]:  # fmt: skip
    """Keep the images that are among the nearest ones of a curated image."""
    queries = curated.store.vectors(curated.rows)
    found = search(store.vectors(rows), queries, options.per_image, rng, device, options.probes, progress)
    values, columns = found.similarities.numpy(), found.indices.numpy()
    verdicts.reason[rows] = f"not among the {options.per_image} nearest of any curated image"
    locations = curated.store.rows["location"][curated.rows]
    for query, column in zip(*np.nonzero(np.isfinite(values))):
        row, near = rows[columns[query, column]], values[query, column]
        if not verdicts.kept[row] or near > verdicts.similarity[row]:
            verdicts.kept[row], verdicts.similarity[row] = True, near
            verdicts.reason[row], verdicts.of[row] = (
                f"number {column + 1} of the nearest of the curated image",
                locations[query],
            )
    brought = int(np.isfinite(values).sum())
    return {"found_again": brought - int(verdicts.kept.sum()), "recall": found.recall}


def take_clusters(
    store: Store, rows: np.ndarray, verdicts: Verdicts, curated: References, options: RetrieveOptions,
    rng: np.random.Generator, device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Draw images from the clusters into which enough curated images fall."""
    vectors = F.normalize(store.vectors(rows).to(device).float(), dim=1)
    count = options.clusters or round(math.sqrt(len(rows)))
    centroids, clusters = kmeans(vectors, count, rng, ITERATIONS, spherical=True)
    queries = F.normalize(curated.store.vectors(curated.rows).to(device).float(), dim=1)
    falling = np.bincount(assign(queries, centroids).cpu().numpy(), minlength=len(centroids))
    of = clusters.cpu().numpy()
    verdicts.reason[rows] = [f"its cluster {number} holds {falling[number]} curated images" for number in of]
    taken = np.flatnonzero(falling >= options.at_least)
    for number in taken:
        members = rows[of == number]
        drawn = rng.choice(members, min(len(members), options.per_cluster), replace=False)
        verdicts.kept[drawn] = True
        lost = np.setdiff1d(members, drawn)
        verdicts.reason[lost] = f"not drawn from its cluster {number}"
    return {"clusters": len(centroids), "taken": len(taken)}
