"""Block-wise masks of patches for iBOT (arXiv 2111.07832), as DINOv2 draws them.

How many patches a step masks in all is a constant of the run, so that the packed tokens of every step have the same
shape: ratios are spread evenly over their range instead of drawn, and only which crop gets which is random. B images in
the whole step's batch.
"""

import math
from dataclasses import dataclass

import numpy as np

from dinolab.data import draws
from dinolab.fields import option

SMALLEST = 4  # patches of a block, and
ASPECT = 0.3  # its least height over width; the greatest is the inverse (both as BEiT, arXiv 2106.08254)


@dataclass
class Masks:
    share: float = option(0.5, "share of the global crops that are masked", 0, 1)
    ratio: list[float] = option([0.1, 0.5], "share of a masked crop's patches that are masked: [least, most]", 0, 1)


def mask_counts(seed: int, step: int, batch_size: int, patches: int, cfg: Masks) -> np.ndarray:
    """How many patches each global crop of a step has masked: int64 (2, B)."""
    counts = np.zeros(2 * batch_size, np.int64)
    spread = _spread(batch_size, patches, cfg)
    counts[: len(spread)] = spread
    return draws.rng(seed, draws.MASKS, step).permutation(counts).reshape(2, batch_size)


def _spread(batch_size: int, patches: int, cfg: Masks) -> np.ndarray:
    """Counts of the masked crops: the middles of equal strata of [least, most], as patches."""
    masked = round(cfg.share * 2 * batch_size)
    least, most = cfg.ratio
    ratios = least + (most - least) * (np.arange(masked) + 0.5) / max(masked, 1)
    return np.rint(ratios * patches).astype(np.int64)


def block_mask(grid_h: int, grid_w: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """A mask of rectangles: bool (grid_h * grid_w,) with exactly `count` True.

    Rectangles of about four patches or more, aspect log-uniform, which may overlap, as long as one fits into what is
    still to be masked (ten tries each); single random patches fill the rest.
    """
    mask = np.zeros((grid_h, grid_w), bool)
    missing = count
    while missing >= SMALLEST and (added := _add_block(mask, missing, rng)):
        missing -= added
    flat = mask.reshape(-1)
    flat[rng.choice(np.flatnonzero(~flat), missing, replace=False)] = True
    return flat


def _add_block(mask: np.ndarray, most: int, rng: np.random.Generator) -> int:
    """Mask one more rectangle, in place, that adds 1 to `most` patches; returns how many, 0 if none was found."""
    grid_h, grid_w = mask.shape
    for _ in range(10):
        area = rng.uniform(SMALLEST, most)
        aspect = math.exp(rng.uniform(math.log(ASPECT), -math.log(ASPECT)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h > grid_h or w > grid_w:
            continue
        top, left = rng.integers(grid_h - h + 1), rng.integers(grid_w - w + 1)
        block = mask[top : top + h, left : left + w]
        added = block.size - int(np.count_nonzero(block))
        if 0 < added <= most:
            block[:] = True
            return added
    return 0
