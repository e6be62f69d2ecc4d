"""Images that are near test images, and what hangs together with them (DINOv2, arXiv 2304.07193, appendix A.3).

An image is a hit if it has the same bytes as a test image, nearly the same perceptual hash, or a similarity above the threshold. All
images are compared, also those that are left out as copies: a copy may be nearer to a test image than the one that is kept. Where a
hit is a copy, the image that is kept in its place goes. So does what hangs together with it, directly or through others, by
similarities above the same threshold.

n images that the stage chooses among, M test images, D features.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from dinolab.curation.components import components, join
from dinolab.curation.copies import Copies, Look, likeness
from dinolab.curation.graph import build, search
from dinolab.curation.lists import SORTED
from dinolab.curation.parts import Part, Parts
from dinolab.features.duplicates import group
from dinolab.features.store import Embeddings

BYTES, HASH = "same bytes as the test image", "same picture, by its perceptual hash, as the test image"
NEAR, GROUP = "near the test image", "in a group with an image that is near the test image"
FIGURES = {"leak_bytes": BYTES, "leak_hash": HASH, "leaks": NEAR, "leak_groups": GROUP}
COMPARED = 1 << 22  # pairs of hashes that are compared at once


class Hits(NamedTuple):
    """What the images are to the test images that are nearest to them."""

    reason: np.ndarray  # object (n,), texts; empty for an image that is no hit
    test: np.ndarray  # position of the test image, int64 (n,)


def drop_leaks(
    look: Look, rows: np.ndarray, near: Callable[[], Copies], change: Callable[[Tensor], Tensor] | None
) -> float:
    """Leave out all hits and what hangs together with them; returns the recall of the search.

    Args:
        rows: of the images that the stage chooses among, int64 (n,).
        near: the groups of copies, in whose verdicts the first process notes what goes.
        change: the whitening.
    """
    store, options, tests = look.store, look.options, look.references
    assert tests is not None
    parts = look.parts("leaks", rows, "threshold", "most", "keep", "hash_bits", tests=tests)
    standing = np.array(parts.one("standing", lambda: {"row": near().standing})["row"])
    found = build(
        Embeddings((store, standing), (tests.store, tests.rows), change=change),
        None, options.neighbours, look.rng, parts, look.how,
    )  # fmt: skip
    images, theirs = Embeddings((store, rows), change=change), Embeddings((tests.store, tests.rows), change=change)
    nearest = nearest_tests(look, images, theirs, look.parts("hits", rows, "keep", "hash_bits", tests=tests))
    recall = min(found.recall, *(float(part["recall"][0]) for part in nearest))
    if not look.first:
        return recall
    copies, hits = near(), find_hits(look, rows, nearest)
    joined = components(found, options.threshold_against, options.most).warn(options.most, "images and test images")
    is_hit = hits.reason != ""
    place = np.searchsorted(standing, copies.stands[rows])  # of the image that stands for each one
    edges = np.stack([place[is_hit], len(standing) + hits.test[is_hit]], 1)
    first = np.unique(joined.group, return_index=True, return_inverse=True)
    chains = np.stack([np.arange(len(joined.group)), first[1][first[2]]], 1)
    groups = join(len(joined.group), np.concatenate([edges, chains]))
    touching = np.full(groups.max() + 1, -1)  # for each group, one of its test images
    touching[groups[len(standing) :]] = np.arange(len(tests.rows))
    touching[groups[place[is_hit]]] = hits.test[is_hit]
    because = np.where(is_hit, hits.test, touching[groups[place]])
    goes = is_hit | ((because >= 0) & (rows == copies.stands[rows]))  # other copies are out already
    gone, verdicts = rows[goes], copies.verdicts
    verdicts.kept[gone] = False
    verdicts.reason[gone] = np.where(is_hit, hits.reason, GROUP)[goes]
    verdicts.of[gone] = tests.store.rows["location"][tests.rows[because[goes]]]
    verdicts.similarity[gone] = likeness(images, np.flatnonzero(goes), theirs, because[goes])
    return recall


def nearest_tests(look: Look, images: Embeddings, tests: Embeddings, parts: Parts) -> Sequence[Part]:
    """The most similar test image of each image, in parts of a block of images each.

    Returns:
        Parts of "test" int32 (m,), a position, "similarity" float32 (m,), and "recall" float64 (1,).
    """

    def block(number: int) -> Part:
        found = search(tests, images[number * SORTED : (number + 1) * SORTED], 1, look.rng, look.how)
        named = {"test": found.indices[:, 0].int(), "similarity": found.similarities[:, 0]}
        return {**{name: values.numpy() for name, values in named.items()}, "recall": np.array([found.recall])}

    return parts.each("hits", -(-len(images) // SORTED), block, "nearest test images")


def find_hits(look: Look, rows: np.ndarray, nearest: Sequence[Part]) -> Hits:
    """The images (n,) that are near a test image themselves."""
    tests, bits = look.references, look.options.hash_bits
    assert tests is not None
    test, similarity = (np.concatenate([part[name] for part in nearest]) for name in ("test", "similarity"))
    hits = Hits(np.full(len(rows), "", object), test.astype(np.int64))
    hits.reason[similarity > look.options.threshold_against] = NEAR
    ours, theirs = (look.store.rows, rows), (tests.store.rows, tests.rows)
    if bits >= 0:
        hashes, of_tests = (facts["hash"][some] for facts, some in (ours, theirs))
        equal = same_pictures(hashes, of_tests, bits)
        hits.reason[equal >= 0], hits.test[equal >= 0] = HASH, equal[equal >= 0]
    digests = theirs[0]["digest"][tests.rows]
    positions = {digest: position for position, digest in enumerate(digests)}
    equal = np.array([positions.get(digest, -1) for digest in ours[0]["digest"][rows]])
    hits.reason[equal >= 0], hits.test[equal >= 0] = BYTES, equal[equal >= 0]
    return hits


def same_pictures(hashes: np.ndarray, tests: np.ndarray, bits: int) -> np.ndarray:
    """For each hash uint64 (n,) the nearest of the tests' (M,), int64 (n,); -1 where none differs in at most `bits` bits."""
    labels = group(np.concatenate([hashes, tests]), bits)
    candidates = np.flatnonzero(np.isin(labels[: len(hashes)], labels[len(hashes) :]))
    found = np.full(len(hashes), -1)
    for some in np.array_split(candidates, 1 + len(candidates) * len(tests) // COMPARED):
        differ = np.bitwise_count(hashes[some, None] ^ tests)
        best = differ.argmin(1)
        equal = np.take_along_axis(differ, best[:, None], 1)[:, 0] <= bits
        found[some[equal]] = best[equal]
    return found
