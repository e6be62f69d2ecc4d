"""An audit: what a person should look at in a set before training on it. Nothing is left out or deleted.

It looks at the images that the stages have left in. Neighbours come from the store's embeddings, and only sharpness and contrast need
the images themselves. N images, k neighbours of each.
"""

from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F

from dinolab.curation.decisions import WORK, before, last_manifest
from dinolab.curation.findings import (
    BLURRED,
    COPY,
    EMPTY,
    KINDS,
    LABEL,
    LEAK,
    OUTLIER,
    TINY,
    Audit,
    Finding,
    Kind,
)
from dinolab.curation.graph import Neighbours, search
from dinolab.curation.lists import How
from dinolab.curation.options import AuditOptions
from dinolab.curation.sharpness import measure
from dinolab.curation.whitening import learn_spread
from dinolab.errors import UserError
from dinolab.features.store import Embeddings, Store, fingerprint
from dinolab.parallel import choose_device

TO_DEVIATION = 1.4826  # of a median absolute deviation: the standard deviation of normally distributed values
ROWS = 256  # images whose neighbours' embeddings are gathered at once


def audit(store: Store, options: AuditOptions, progress: bool = False) -> Audit:
    """Look for findings of every kind among the images that are in.

    Raises:
        UserError: there are fewer than two images, or none of them can be read any more.
    """
    rows, parent = before(store), fingerprint(last_manifest(store.folder))
    if len(rows) < 2:
        raise UserError(f"{store.folder}: an audit compares images with each other, and the set has only one")
    found: dict[Kind, list[Finding]] = {kind: [] for kind in KINDS}
    found[TINY] = tiny(store, rows, options)
    found[BLURRED], found[EMPTY] = blurred_and_empty(store, rows, options, progress)
    look = Neighbourhood(store, rows, options, progress)
    near = look.search(rows, rows)
    found[COPY] = look.pairs(rows, rows, near, options.threshold, within=True)
    found[LEAK] = leaks(look)
    found[OUTLIER] = outliers(look, near)
    found[LABEL] = doubtful_labels(look, near)
    source = store.rows["source"]
    between = Counter((source[one.other], source[one.row]) for one in found[LEAK])
    return Audit(store, len(rows), near.recall, found, dict(between.most_common()), parent)


class Neighbourhood:
    """The nearest images of images. Embeddings are read where they are needed, and stay on the disk."""

    def __init__(self, store: Store, rows: np.ndarray, options: AuditOptions, progress: bool) -> None:
        """`rows` are those of the images that are looked at, int64 (N,), in rising order."""
        self.store, self.rows, self.options, self.progress = store, rows, options, progress
        self.device = choose_device(options.search_device, "search_device=")
        self.rng = np.random.default_rng(options.seed)
        self.plain, self.change = Embeddings((store, rows)), None
        if options.space == "whitened":
            self.change = learn_spread(self.plain, self.rng, self.device).apply

    def of(self, rows: np.ndarray) -> Embeddings:
        """The embeddings of some of the rows, which are compared."""
        return Embeddings((self.store, rows), change=self.change)

    def search(self, query: np.ndarray, reference: np.ndarray) -> Neighbours:
        """The nearest rows among `reference`, as positions in it, for each of `query`; an image is no neighbour of itself."""
        options = self.options
        asked = None if query is reference else self.of(query)
        how = How(self.device, options.probes, options.index)
        scratch = self.store.folder / WORK / "audit"  # what a killed audit has left there is removed first
        return search(self.of(reference), asked, options.neighbours, self.rng, how, self.progress, scratch)

    def pairs(
        self, query: np.ndarray, reference: np.ndarray, near: Neighbours, threshold: float, within: bool
    ) -> list[Finding]:
        """Each image with the most similar one that is taken for a copy of it; a pair that is found from both sides counts once.

        Args:
            within: only pairs of the same source.
        """
        facts, similarities = self.store.rows, near.similarities.numpy()
        others = reference[near.indices.numpy()]
        bits = np.bitwise_count(facts["hash"][query][:, None] ^ facts["hash"][others]).astype(int)
        is_copy = np.isfinite(similarities) & ((similarities > threshold) | (bits <= self.options.hash_bits))
        if within:
            is_copy &= facts["source"][query][:, None] == facts["source"][others]
        at = np.flatnonzero(is_copy.any(1))
        column = is_copy[at].argmax(1)
        a, b = query[at], others[at, column]
        ends = np.stack([np.maximum(a, b), np.minimum(a, b)], 1)
        once = np.unique(ends, axis=0, return_index=True)[1]
        found = [
            Finding(int(row), score, self.likeness(row, other, differ), int(other))
            for (row, other), score, differ in zip(
                ends[once], similarities[at, column][once].tolist(), bits[at, column][once]
            )
        ]
        return sorted(found, key=lambda one: (-one.score, one.row))

    def likeness(self, row: int, other: int, bits: int) -> str:
        """Why two images are taken for copies, and how their sources and labels differ."""
        facts = self.store.rows
        words = [f"perceptual hashes differ in {bits} of 64 bits" if bits else "same perceptual hash"]
        if facts["digest"][row] == facts["digest"][other]:
            words = ["same bytes"]
        for name in ("source", "label"):
            one, two = facts[name][row], facts[name][other]
            words += [f"{name}s: {one} and {two}"] if one and two and one != two else []
        return "; ".join(words)


def leaks(look: Neighbourhood) -> list[Finding]:
    """Copies between sources: each image is compared with its nearest among the images of all other sources."""
    source = look.store.rows["source"][look.rows]
    found: dict[tuple[int, int], Finding] = {}
    for name in np.unique(source):
        own, others = look.rows[source == name], look.rows[source != name]
        if len(others):
            pairs = look.pairs(own, others, look.search(own, others), look.options.threshold_leak, within=False)
            found |= {(one.row, one.other): one for one in pairs}
    return sorted(found.values(), key=lambda one: (-one.score, one.row))


def outliers(look: Neighbourhood, near: Neighbours) -> list[Finding]:
    """Images whose mean distance to their neighbours lies far above the median.

    Distances are those of the embeddings as they are: in whitened ones nearly all images are about equally far from each other.
    """
    parts = zip(*(part.split(ROWS) for part in (look.plain, near.indices, near.similarities)))
    similar = []
    for own, others, found in parts:
        theirs = look.plain[others.flatten()].unflatten(0, others.shape)
        cosine = F.cosine_similarity(own[:, None].float(), theirs.float(), dim=2)
        similar.append(cosine.masked_fill(found.isinf(), torch.nan).nanmean(1))
    distance = 1 - torch.cat(similar).nan_to_num(-1).double().numpy()
    median = np.median(distance)
    deviation = max(TO_DEVIATION * float(np.median(np.abs(distance - median))), 1e-6)
    beyond = (distance - median) / deviation
    worst = np.argsort(-distance, kind="stable")
    return [
        Finding(int(look.rows[i]), float(distance[i]), f"{beyond[i]:.1f} standard deviations beyond the usual distance")
        for i in worst[beyond[worst] > look.options.outlier]
    ]


def doubtful_labels(look: Neighbourhood, near: Neighbours) -> list[Finding]:
    """Images of whose labelled neighbours so many have one other label."""
    labels = look.store.rows["label"]
    rows = look.rows[labels[look.rows] != ""]
    if len(rows) < 2:
        return []
    if len(rows) < len(look.rows):
        near = look.search(rows, rows)
    names, own = np.unique(labels[rows].astype(str), return_inverse=True)
    theirs = own[near.indices.numpy()]
    theirs = np.where(np.isfinite(near.similarities.numpy()), theirs, own[:, None])  # a place without a neighbour
    found = []
    for i in np.flatnonzero((theirs != own[:, None]).mean(1) >= look.options.label_share):
        votes = np.bincount(theirs[i], minlength=len(names))
        votes[own[i]] = 0
        share = votes.max() / theirs.shape[1]
        if share >= look.options.label_share and votes.max():
            words = f"labelled {names[own[i]]}; of its {theirs.shape[1]} nearest images {votes.max()} are labelled "
            found.append(Finding(int(rows[i]), float(share), words + names[votes.argmax()]))
    return sorted(found, key=lambda one: (-one.score, one.row))


def blurred_and_empty(
    store: Store, rows: np.ndarray, options: AuditOptions, progress: bool
) -> tuple[list[Finding], list[Finding]]:
    """Images of little sharpness, compared with the set's median; and those of little contrast, which are not called blurred, too."""
    sharpness, contrast = measure(store.rows["location"][rows].tolist(), progress)
    share = sharpness / max(float(np.nanmedian(sharpness)), 1e-6)
    is_empty = contrast < options.contrast
    is_blurred = (share < options.blurred) & ~is_empty
    blurred = [
        Finding(int(rows[i]), float(share[i]), f"{share[i]:.1%} of the sharpness that is usual in this set")
        for i in np.argsort(share, kind="stable")
        if is_blurred[i]
    ]
    empty = [
        Finding(int(rows[i]), float(contrast[i]), f"pixel values have a standard deviation of {contrast[i]:.1f} of 255")
        for i in np.argsort(contrast, kind="stable")
        if is_empty[i]
    ]
    return blurred, empty


def tiny(store: Store, rows: np.ndarray, options: AuditOptions) -> list[Finding]:
    """Images with a short side."""
    height, width = store.rows["height"][rows], store.rows["width"][rows]
    side = np.minimum(height, width)
    order = np.argsort(side, kind="stable")
    return [
        Finding(int(rows[i]), float(side[i]), f"{width[i]} x {height[i]} pixels")
        for i in order[side[order] < options.tiny]
    ]
