"""Near-duplicates among images: copies that were resized, saved again, or slightly cut or toned.

N images.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dinolab.data.decode import BrokenImage, decode, jpeg_size, read_file
from dinolab.data.types import Source
from dinolab.machine import cores
from dinolab.progress import track

SIDE, LOW = 32, 8  # sides of the picture that is transformed, and of the square of low frequencies that are kept
NEAR = 6  # bits of 64 that may differ; hashes of unrelated photographs differ in about 32
CHUNK = 2048  # hashes that are compared with others at once


def find_groups(source: Source, progress: bool = True) -> np.ndarray:
    """Group numbers of the images, int (N,): near-duplicates share a number, also where they are joined by a third image.

    An image that cannot be read has a group of its own.
    """
    paths = source.paths
    hashes = np.zeros(len(paths), np.uint64)
    readable = np.zeros(len(paths), bool)
    with ThreadPoolExecutor(cores()) as pool:
        found = track(pool.map(hash_file, paths), f"near-duplicates in {source.name}", len(paths), progress)
        for i, bits in enumerate(found):
            if bits is not None:
                hashes[i], readable[i] = bits, True
    groups = np.arange(len(paths)) + len(paths)
    groups[readable] = group(hashes[readable])
    return groups


def hash_file(path: str) -> np.uint64 | None:
    """The perceptual hash of an image file; None where it cannot be read."""
    try:
        data = read_file(path)
        size = jpeg_size(data)
        reduction = max((r for r in (1, 2, 4, 8) if size and min(size) >= 2 * SIDE * r), default=1)
        return perceptual_hash(decode(data, path, reduction))
    except BrokenImage:  # the evaluation names it in its warning
        return None


def perceptual_hash(image: np.ndarray) -> np.uint64:
    """pHash of uint8 (H, W, 3): which of the 64 lowest frequencies of the 32 x 32 grey picture lie above their median."""
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[:LOW, :LOW].flatten()
    return np.packbits(low > np.median(low)).view(np.uint64)[0]


def group(hashes: np.ndarray, near: int = NEAR) -> np.ndarray:
    """Group numbers, int (N,), of hashes uint64 (N,): two that differ in at most `near` bits are in one group.

    Such hashes agree in at least one of near + 1 bands of bits, so only hashes with an equal band are compared.
    """
    kinds, kind = np.unique(hashes, return_inverse=True)
    ends = np.linspace(0, 64, near + 2).astype(int)
    pairs = [np.empty((0, 2), int)]
    for start, end in pairwise(ends):
        band = kinds >> np.uint64(start) & np.uint64((1 << int(end - start)) - 1)
        order = np.argsort(band, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            for at in range(0, len(members), CHUNK):
                some, rest = members[at : at + CHUNK], members[at:]
                a, b = np.nonzero(np.bitwise_count(kinds[some, None] ^ kinds[rest]) <= near)
                pairs.append(np.stack([some[a], rest[b]], 1)[a < b])
    joined = np.concatenate(pairs)
    graph = coo_array((np.ones(len(joined), bool), (joined[:, 0], joined[:, 1])), (len(kinds), len(kinds)))
    return connected_components(graph, directed=False)[1][kind]
