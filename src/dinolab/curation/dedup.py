"""Groups of copies among images, and images that are near test images (DINOv2, arXiv 2304.07193, appendix A.3).

Each step compares only the images that the one before has kept: files of the same content, then perceptual hashes, then embeddings.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.config import to_dict
from dinolab.curation.components import components, join
from dinolab.curation.decisions import before, undecided, write_stage
from dinolab.curation.graph import search
from dinolab.curation.options import DedupOptions
from dinolab.curation.references import References, open_references
from dinolab.curation.whitening import Spread, learn_spread
from dinolab.features.duplicates import group
from dinolab.features.store import Store
from dinolab.parallel import choose_device

STAGE = "dedup"
BYTES, HASH, NEAR = "same bytes as", "same picture, by its perceptual hash, as", "near-copy of"
CHAIN = "joined by a chain of near-copies with"
LEAK, LEAK_GROUP = "near the test image", "copy of an image, or in a chain with one, that is near the test image"
FIGURES = {"bytes": BYTES, "hash": HASH, "near": NEAR, "chain": CHAIN, "leaks": LEAK, "leak_groups": LEAK_GROUP}


def dedup(store: Store, options: DedupOptions, progress: bool = False) -> dict[str, Any]:
    """Keep one image of each group of copies, and none of a group that touches a test image; writes the stage's files.

    Returns:
        Figures: "images" before and "kept" after, how many went for each reason, and the "recall" of the search for neighbours.
    """
    device = choose_device(options.search_device, "search_device=")
    references = open_references(store, "against", options.against, options, progress) if options.against else None
    rows = before(store, STAGE)
    copies = Copies(store, rows, options.keep)
    _, same = np.unique(store.rows["digest"][rows], return_inverse=True)
    copies.join(same, BYTES)
    if options.hash_bits >= 0:
        copies.join(group(store.rows["hash"][copies.standing], options.hash_bits), HASH)
    rng = np.random.default_rng(options.seed)
    vectors = store.vectors(copies.standing)
    spread = learn_spread(vectors, rng, device) if options.space == "whitened" else None
    vectors = spread.apply(vectors) if spread else vectors
    found = search(vectors, None, options.neighbours, rng, device, options.probes, progress)
    copies.join(components(found, options.threshold, options.most, "near-copies"), NEAR, vectors, options.threshold)
    figures: dict[str, Any] = {"images": len(rows), "recall": found.recall}
    if references:
        figures["recall_against"] = drop_leaks(copies, references, spread, options, device, progress)
    figures |= {name: int((copies.verdicts.reason == reason).sum()) for name, reason in FIGURES.items()}
    figures["kept"] = int(copies.verdicts.kept.sum())
    write_stage(store, STAGE, copies.verdicts, to_dict(options), figures)
    return figures


class Copies:
    """Groups of copies that grow step by step. One image stands for each group, and alone takes part in the next step.

    Attributes:
        standing: rows that stand for a group, int64, in rising order.
        stands: for each row of the store, the row that stands for it, int64 (N,).
        verdicts: what has been decided so far.
    """

    def __init__(self, store: Store, rows: np.ndarray, keep: str) -> None:
        """Groups of one image each; `rows` are those of the images that the stage chooses among."""
        self.store, self.rows, self.keep = store, rows, keep
        self.standing, self.stands = rows, np.arange(len(store))
        self.verdicts = undecided(len(store))
        self.verdicts.kept[rows] = True

    def join(self, labels: np.ndarray, reason: str, vectors: Tensor | None = None, threshold: float = 0) -> None:
        """Join the groups whose standing images have the same label.

        Args:
            labels: int, one for each row of `standing`.
            reason: why an image goes.
            vectors: embeddings of the standing images, (n, D), to note how similar an image is to the one that is kept. Where that
                is not above the threshold, others in between have joined them.
        """
        rows, facts = self.standing, self.store.rows
        size = facts["height"][rows].astype(np.int64) * facts["width"][rows]
        first_keys = {"largest": (-facts["bytes"][rows], -size), "newest": (-facts["date"][rows],), "first": ()}[
            self.keep
        ]
        order = np.lexsort((rows, *first_keys, labels))  # of each label, the one to keep comes first
        begins = np.r_[True, np.diff(labels[order]) != 0]
        best = np.empty(len(rows), np.int64)
        best[order] = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
        gone = np.flatnonzero(best != np.arange(len(rows)))
        locations = facts["location"]
        self.verdicts.kept[rows[gone]] = False
        self.verdicts.reason[rows[gone]] = reason
        self.verdicts.of[rows[gone]] = locations[rows[best[gone]]]
        if vectors is not None:
            near = F.cosine_similarity(vectors[gone].float(), vectors[best[gone]].float()).numpy()
            self.verdicts.similarity[rows[gone]] = near
            self.verdicts.reason[rows[gone[near <= threshold]]] = CHAIN
        target = np.arange(len(self.stands))
        target[rows] = rows[best]
        self.stands = target[self.stands]
        self.standing = np.delete(rows, gone)


def drop_leaks(
    copies: Copies,
    references: References,
    spread: Spread | None,
    options: DedupOptions,
    device: torch.device,
    progress: bool,
) -> float:
    """Leave out every image of a component that touches a test image, and the copies of these; returns the recall of the search."""
    store, standing, verdicts = copies.store, copies.standing, copies.verdicts
    rng = np.random.default_rng(options.seed)
    vectors, tests = store.vectors(standing), references.store.vectors(references.rows)
    if spread:
        vectors, tests = spread.apply(vectors), spread.apply(tests)
    found = search(torch.cat([vectors, tests]), None, options.neighbours, rng, device, options.probes, progress)
    parts = components(found, options.threshold_against, options.most, "images and test images")
    parts = join_equal(parts, store, standing, references, options.hash_bits)
    touched = np.flatnonzero(np.isin(parts[: len(standing)], parts[len(standing) :]))
    nearest = search(tests, vectors[touched], 1, rng, device, options.probes, progress)
    locations = references.store.rows["location"][references.rows]
    number = {int(standing[one]): n for n, one in enumerate(touched)}
    for row in copies.rows:
        if (n := number.get(int(copies.stands[row]))) is None:
            continue
        near = float(nearest.similarities[n, 0])
        is_near = row == copies.stands[row] and near > options.threshold_against
        verdicts.kept[row] = False
        verdicts.reason[row] = LEAK if is_near else LEAK_GROUP
        verdicts.of[row] = locations[int(nearest.indices[n, 0])]
        verdicts.similarity[row] = near
    return found.recall


def join_equal(parts: np.ndarray, store: Store, rows: np.ndarray, references: References, bits: int) -> np.ndarray:
    """Components of images and test images, int, joined further where contents are equal or perceptual hashes nearly so."""
    digests, hashes = (
        np.concatenate([store.rows[name][rows], references.store.rows[name][references.rows]])
        for name in ("digest", "hash")
    )
    labels = [parts, np.unique(digests, return_inverse=True)[1], *([group(hashes, bits)] if bits >= 0 else [])]
    pairs = []
    for values in labels:
        first = np.unique(values, return_index=True, return_inverse=True)
        pairs.append(np.stack([np.arange(len(parts)), first[1][first[2]]], 1))
    return join(len(parts), np.concatenate(pairs))
