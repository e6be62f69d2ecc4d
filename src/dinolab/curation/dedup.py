"""Groups of copies among images, and images that are near test images (DINOv2, arXiv 2304.07193, appendix A.3).

Each step compares only the images that the one before has kept: files of the same content, then perceptual hashes, then embeddings.
"""

from functools import cache
from typing import Any

import numpy as np

from dinolab.config import to_dict
from dinolab.curation import leaks
from dinolab.curation.components import Components, components
from dinolab.curation.copies import BYTES, CHAIN, HASH, NEAR, Copies, Look
from dinolab.curation.decisions import await_stage, before, write_stage
from dinolab.curation.graph import build
from dinolab.curation.options import DedupOptions
from dinolab.features.duplicates import group
from dinolab.features.store import Embeddings, Store

STAGE = "dedup"
FIGURES = {"bytes": BYTES, "hash": HASH, "near": NEAR, "chain": CHAIN, **leaks.FIGURES}


def dedup(store: Store, options: DedupOptions, progress: bool = False) -> dict[str, Any]:
    """Keep one image of each group of copies, and none of a group that touches a test image; writes the stage's files.

    Returns:
        Figures: "images" before and "kept" after, how many went for each reason, and the "recall" of the search for neighbours.
    """
    look, rows = Look(store, options, progress), before(store, STAGE)
    parts = look.parts(STAGE, rows, "keep", "hash_bits")

    @cache  # only the first process needs the facts about all images, and another one where the first is late
    def equal() -> Copies:
        copies = Copies(store, rows, options.keep)
        copies.join(np.unique(store.rows["digest"][rows], return_inverse=True)[1], BYTES)
        if options.hash_bits >= 0:
            copies.join(group(store.rows["hash"][copies.standing], options.hash_bits), HASH)
        return copies

    standing = np.array(parts.one("standing", lambda: {"row": equal().standing})["row"])
    change = look.spread(standing, parts)
    vectors = Embeddings((store, standing), change=change)
    found = build(vectors, None, options.neighbours, look.rng, parts, look.how)
    how = (options.threshold, options.most)
    joined = parts.one("groups-{!r}-{}".format(*how), lambda: components(found, *how)._asdict())

    @cache
    def near() -> Copies:
        copies = equal()  # which grow
        copies.join(joined["group"], NEAR, vectors, options.threshold)
        return copies

    figures: dict[str, Any] = {"images": len(rows), "recall": found.recall}
    if look.references:
        figures["recall_against"] = leaks.drop_leaks(look, rows, near, change)
    compared = look.references.store if look.references else None
    if not look.first:
        return await_stage(store, STAGE, to_dict(options), compared)
    Components(joined["group"], joined["cut"]).warn(options.most, "near-copies")
    verdicts = near().verdicts
    figures |= {name: int((verdicts.reason == reason).sum()) for name, reason in FIGURES.items()}
    figures["kept"] = int(verdicts.kept.sum())
    write_stage(store, STAGE, verdicts, to_dict(options), figures, compared)
    return figures
