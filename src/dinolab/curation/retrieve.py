"""Images that are like curated ones (DINOv2, arXiv 2304.07193, section 3 and appendix A.4)."""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dinolab.config import to_dict
from dinolab.curation.decisions import Verdicts, await_stage, before, parts_of_stage, undecided, write_stage
from dinolab.curation.graph import build
from dinolab.curation.hierarchy import Clustering, cluster
from dinolab.curation.kmeans import assign
from dinolab.curation.lists import How
from dinolab.curation.options import RetrieveOptions
from dinolab.curation.parts import Parts
from dinolab.curation.references import References, open_references
from dinolab.data.sources.curated import MANIFEST
from dinolab.features.store import Embeddings, Store, fingerprint
from dinolab.parallel import choose_device

STAGE = "retrieve"
CLUSTERED = Clustering(resamplings=0, iterations=20, spherical=True)


def retrieve(store: Store, options: RetrieveOptions, progress: bool = False) -> dict[str, Any]:
    """Keep the images that curated ones bring in, each once; writes the stage's files.

    Returns:
        Figures: "images" before and "kept" after, the number of "curated" images; of neighbours, how many were "found_again" by
        another curated image, and the "recall" of the search; of clusters, how many were "taken".
    """
    device = choose_device(options.search_device, "search_device=")
    curated = open_references(store, "curated", [options.curated], options, progress)
    rows, rng = before(store, STAGE), np.random.default_rng(options.seed)
    facts = {name: getattr(options, name) for name in ("by", "per_image", "clusters", "probes", "seed", "index")}
    facts |= {"curated": fingerprint(curated.store.folder / MANIFEST), "of_them": curated.rows.tolist()}
    look = Look(store, rows, curated, options, device, parts_of_stage(store, STAGE, rows, facts, progress))
    verdicts = undecided(len(store))
    figures = (take_neighbours if options.by == "neighbours" else take_clusters)(look, verdicts, rng)
    if look.parts.crew.rank:
        return await_stage(store, STAGE, to_dict(options), curated.store)
    figures = {"images": len(rows), "curated": len(curated.rows), "kept": int(verdicts.kept.sum()), **figures}
    write_stage(store, STAGE, verdicts, to_dict(options), figures, curated.store)
    return figures


class Look(NamedTuple):
    """What is looked for among which images, and how."""

    store: Store
    rows: np.ndarray  # of the images, int64 (n,)
    curated: References
    options: RetrieveOptions
    device: torch.device
    parts: Parts


def take_neighbours(look: Look, verdicts: Verdicts, rng: np.random.Generator) -> dict[str, Any]:
    """Keep the images that are among the nearest ones of a curated image."""
    store, rows, curated, options, device, parts = look
    images, queries = Embeddings((store, rows)), Embeddings((curated.store, curated.rows))
    how = How(device, options.probes, options.index)
    found = build(images, queries, options.per_image, rng, parts, how).gather()
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


def take_clusters(look: Look, verdicts: Verdicts, rng: np.random.Generator) -> dict[str, Any]:
    """Draw images from the clusters into which enough curated images fall."""
    store, rows, curated, options, device, parts = look
    units = partial(Embeddings, change=lambda block: F.normalize(block.to(device).float(), dim=1))
    count = options.clusters or round(math.sqrt(len(rows)))
    level = cluster(units((store, rows)), min(count, len(rows)), rng, parts, CLUSTERED)
    centroids = level.centroids
    queries = torch.cat([assign(block, centroids) for block in units((curated.store, curated.rows)).split()])
    falling = np.bincount(queries.cpu().numpy(), minlength=len(centroids))
    of = level.clusters.cpu().numpy()
    verdicts.reason[rows] = [f"its cluster {number} holds {falling[number]} curated images" for number in of]
    taken = np.flatnonzero(falling >= options.at_least)
    for number in taken:
        members = rows[of == number]
        drawn = rng.choice(members, min(len(members), options.per_cluster), replace=False)
        verdicts.kept[drawn] = True
        lost = np.setdiff1d(members, drawn)
        verdicts.reason[lost] = f"not drawn from its cluster {number}"
    return {"clusters": len(centroids), "taken": len(taken)}
