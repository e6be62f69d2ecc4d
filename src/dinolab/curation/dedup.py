"""Groups of copies among images, and images that are near test images (DINOv2, arXiv 2304.07193, appendix A.3).

Each step compares only the images that the one before has kept: files of the same content, then perceptual hashes, then embeddings.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.config import to_dict
from dinolab.curation.components import Components, components, join
from dinolab.curation.decisions import await_stage, before, parts_of_stage, undecided, write_stage
from dinolab.curation.graph import Graph, build, search
from dinolab.curation.lists import How
from dinolab.curation.options import DedupOptions
from dinolab.curation.parts import Part, Parts, crew
from dinolab.curation.references import References, open_references
from dinolab.curation.whitening import Spread, learn_spread
from dinolab.data.sources.curated import MANIFEST
from dinolab.features.duplicates import group
from dinolab.features.store import Embeddings, Store, fingerprint
from dinolab.parallel import choose_device

STAGE = "dedup"
CHUNK = 1 << 16  # pairs of images that are compared at once
BYTES, HASH, NEAR = "same bytes as", "same picture, by its perceptual hash, as", "near-copy of"
CHAIN = "joined by a chain of near-copies with"
LEAK, LEAK_GROUP = "near the test image", "copy of an image, or in a chain with one, that is near the test image"
FIGURES = {"bytes": BYTES, "hash": HASH, "near": NEAR, "chain": CHAIN, "leaks": LEAK, "leak_groups": LEAK_GROUP}


def dedup(store: Store, options: DedupOptions, progress: bool = False) -> dict[str, Any]:
    """Keep one image of each group of copies, and none of a group that touches a test image; writes the stage's files.

    Returns:
        Figures: "images" before and "kept" after, how many went for each reason, and the "recall" of the search for neighbours.
    """
    look = Look(store, options, progress)
    copies = Copies(store, before(store, STAGE), options.keep)
    _, same = np.unique(store.rows["digest"][copies.rows], return_inverse=True)
    copies.join(same, BYTES)
    if options.hash_bits >= 0:
        copies.join(group(store.rows["hash"][copies.standing], options.hash_bits), HASH)
    parts = look.parts(STAGE, copies.standing)
    change = look.spread(copies.standing, parts)
    vectors = Embeddings((store, copies.standing), change=change)
    found = look.graph(vectors, parts)
    how = (options.threshold, options.most)
    joined = parts.one("groups-{!r}-{}".format(*how), lambda: components(found, *how)._asdict())
    if look.first:
        Components(joined["group"], joined["cut"]).warn(options.most, "near-copies")
    copies.join(joined["group"], NEAR, vectors if look.first else None, options.threshold)
    figures: dict[str, Any] = {"images": len(copies.rows), "recall": found.recall}
    if look.references:
        figures["recall_against"] = drop_leaks(copies, look, change)
    if not look.first:
        return await_stage(store, STAGE, to_dict(options), look.compared)
    figures |= {name: int((copies.verdicts.reason == reason).sum()) for name, reason in FIGURES.items()}
    figures["kept"] = int(copies.verdicts.kept.sum())
    write_stage(store, STAGE, copies.verdicts, to_dict(options), figures, look.compared)
    return figures


class Look:
    """How near-copies are looked for.

    Attributes:
        references: the test images, if there are any.
        first: whether this process joins the parts.
    """

    def __init__(self, store: Store, options: DedupOptions, progress: bool) -> None:
        """Embeds the test images."""
        self.store, self.options, self.progress = store, options, progress
        self.device = choose_device(options.search_device, "search_device=")
        self.references: References | None = None
        if options.against:
            self.references = open_references(store, "against", options.against, options, progress)
        self.first = crew().rank == 0

    @property
    def how(self) -> How:
        return How(self.device, self.options.probes, self.options.index)

    @property
    def compared(self) -> Store | None:
        return self.references.store if self.references else None

    def parts(self, name: str, rows: np.ndarray, tests: References | None = None) -> Parts:
        """Where the parts of a search among these rows, int64 (n,), and test images are kept."""
        facts: dict[str, Any] = {
            name: getattr(self.options, name) for name in ("space", "neighbours", "seed", "probes", "index")
        }
        if tests:
            facts |= {"tests": fingerprint(tests.store.folder / MANIFEST), "of_them": tests.rows.tolist()}
        return parts_of_stage(self.store, name, rows, facts, self.progress)

    def spread(self, rows: np.ndarray, parts: Parts) -> Callable[[Tensor], Tensor] | None:
        """The whitening that these rows teach; None where embeddings are compared as they are."""
        if self.options.space == "raw":
            return None

        def learn() -> Part:
            vectors = Embeddings((self.store, rows))
            learned = learn_spread(vectors, np.random.default_rng(self.options.seed), self.device)
            return {name: value.cpu().numpy() for name, value in learned._asdict().items()}

        learned = parts.one("spread", learn)
        return Spread(*(torch.from_numpy(np.array(learned[name])).to(self.device) for name in Spread._fields)).apply

    def graph(self, vectors: Embeddings, parts: Parts) -> Graph:
        """The nearest neighbours of each row."""
        options, rng = self.options, np.random.default_rng(self.options.seed)
        return build(vectors, None, options.neighbours, rng, parts, self.how)


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

    def join(self, labels: np.ndarray, reason: str, vectors: Embeddings | None = None, threshold: float = 0) -> None:
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
            pairs = zip(*(torch.from_numpy(at).split(CHUNK) for at in (gone, best[gone])))
            near = [F.cosine_similarity(vectors[a].float(), vectors[b].float()) for a, b in pairs]
            similarity = torch.cat([torch.empty(0), *near]).numpy()
            self.verdicts.similarity[rows[gone]] = similarity
            self.verdicts.reason[rows[gone[similarity <= threshold]]] = CHAIN
        target = np.arange(len(self.stands))
        target[rows] = rows[best]
        self.stands = target[self.stands]
        self.standing = np.delete(rows, gone)


def drop_leaks(copies: Copies, look: Look, change: Callable[[Tensor], Tensor] | None) -> float:
    """Leave out every image of a component that touches a test image, and the copies of these; returns the recall of the search."""
    store, standing, verdicts = copies.store, copies.standing, copies.verdicts
    references, options = look.references, look.options
    assert references is not None
    both = Embeddings((store, standing), (references.store, references.rows), change=change)
    found = look.graph(both, look.parts("leaks", standing, references))
    if not look.first:
        return found.recall
    joined = components(found, options.threshold_against, options.most).warn(options.most, "images and test images")
    parts = joined.group
    parts = join_equal(parts, store, standing, references, options.hash_bits)
    touched = np.flatnonzero(np.isin(parts[: len(standing)], parts[len(standing) :]))
    tests = Embeddings((references.store, references.rows), change=change)
    near_tests = Embeddings((store, standing[touched]), change=change)
    rng = np.random.default_rng(options.seed)
    nearest = search(tests, near_tests, 1, rng, look.how, look.progress)
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
