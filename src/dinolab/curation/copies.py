"""Groups of copies that grow step by step, and what all steps of `dedup` look with. N images in the store, D features."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.curation.decisions import parts_of_stage, undecided
from dinolab.curation.lists import How
from dinolab.curation.options import DedupOptions
from dinolab.curation.parts import Part, Parts, crew
from dinolab.curation.references import References, open_references
from dinolab.curation.whitening import Spread, learn_spread
from dinolab.data.sources.curated import MANIFEST
from dinolab.features.store import Embeddings, Store, fingerprint
from dinolab.parallel import choose_device

BYTES, HASH, NEAR = "same bytes as", "same picture, by its perceptual hash, as", "near-copy of"
CHAIN = "joined by a chain of near-copies with"
CHUNK = 1 << 16  # pairs of images that are compared at once


class Look:
    """How near-copies are looked for.

    Attributes:
        references: the test images, if there are any.
        first: whether this process joins the parts.
    """

    def __init__(self, store: Store, options: DedupOptions, progress: bool) -> None:
        """Embeds the test images."""
        self.store, self.options, self.progress = store, options, progress
        self.how = How(choose_device(options.search_device, "search_device="), options.probes, options.index)
        self.references: References | None = None
        if options.against:
            self.references = open_references(store, "against", options.against, options, progress)
        self.first = crew().rank == 0

    @property
    def rng(self) -> np.random.Generator:
        """A generator of random numbers, the same for each search."""
        return np.random.default_rng(self.options.seed)

    def parts(self, name: str, rows: np.ndarray, *further: str, tests: References | None = None) -> Parts:
        """Where the parts of a search are kept.

        Args:
            name: of the search.
            rows: images that the stage chooses among, int64 (n,).
            further: options beside the usual ones that the parts depend on.
            tests: with which the images are compared.
        """
        names = ("space", "neighbours", "seed", "probes", "index", *further)
        facts: dict[str, Any] = {name: getattr(self.options, name) for name in names}
        if tests:
            facts |= {"tests": fingerprint(tests.store.folder / MANIFEST), "of_them": tests.rows.tolist()}
        return parts_of_stage(self.store, name, rows, facts, self.progress)

    def spread(self, rows: np.ndarray, parts: Parts) -> Callable[[Tensor], Tensor] | None:
        """The whitening that these rows teach; None where embeddings are compared as they are."""
        if self.options.space == "raw":
            return None

        def learn() -> Part:
            learned = learn_spread(Embeddings((self.store, rows)), self.rng, self.how.device)
            return {name: value.cpu().numpy() for name, value in learned._asdict().items()}

        learned = parts.one("spread", learn)
        return Spread(*(torch.from_numpy(np.array(learned[name])).to(self.how.device) for name in Spread._fields)).apply


class Copies:
    """Groups of copies. One image stands for each group, and alone takes part in the next step.

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
            similarity = likeness(vectors, gone, vectors, best[gone])
            self.verdicts.similarity[rows[gone]] = similarity
            self.verdicts.reason[rows[gone[similarity <= threshold]]] = CHAIN
        target = np.arange(len(self.stands))
        target[rows] = rows[best]
        self.stands = target[self.stands]
        self.standing = np.delete(rows, gone)


def likeness(a: Embeddings, rows: np.ndarray, b: Embeddings, others: np.ndarray) -> np.ndarray:
    """Cosine similarities, float32 (n,), of images at positions in `a`, each with one at a position in `b`, int64 (n,) each."""
    pairs = zip(*(torch.from_numpy(at).split(CHUNK) for at in (rows, others)))
    near = [F.cosine_similarity(a[one].float(), b[other].float()) for one, other in pairs]
    return torch.cat([torch.empty(0), *near]).cpu().numpy()
