"""Block-wise masks: exact counts, in blocks, and a total that is known in advance."""

import numpy as np
import pytest

from dinolab.data import masks


@pytest.mark.parametrize(("height", "width"), [(6, 6), (14, 14), (4, 7), (1, 5)])
def test_every_count_is_exact(height, width):
    rng = np.random.default_rng(0)
    for count in range(height * width + 1):
        for _ in range(5):
            mask = masks.block_mask(height, width, count, rng)
            assert mask.shape == (height * width,)
            assert mask.dtype == bool
            assert mask.sum() == count


def joined(mask: np.ndarray) -> float:
    """Share of neighbouring pairs of patches that are both masked."""
    return ((mask[1:] & mask[:-1]).mean() + (mask[:, 1:] & mask[:, :-1]).mean()) / 2


def test_masks_are_blocks_anywhere():
    rng = np.random.default_rng(0)
    found = [masks.block_mask(14, 14, 59, rng).reshape(14, 14) for _ in range(400)]
    chance = (59 / 196) ** 2  # of a pair, if patches were drawn one by one
    assert np.mean([joined(mask) for mask in found]) > 2 * chance
    assert len({mask.tobytes() for mask in found}) == 400
    often = np.mean(found, axis=0)
    assert np.abs(often - often[::-1, ::-1]).max() < 0.15  # 4.6 deviations of a difference of two such means
    assert often.min() > 0.02  # a corner is rarely masked: only blocks that touch both its edges reach it
    assert often.max() < 0.6


@pytest.mark.parametrize(("batch_size", "patches"), [(1, 36), (4, 196), (7, 49), (32, 28)])
def test_the_total_does_not_depend_on_the_step(batch_size, patches):
    cfg = masks.Masks()
    steps = [masks.mask_counts(0, step, batch_size, patches, cfg) for step in range(50)]
    assert all(counts.shape == (2, batch_size) and counts.sum() == steps[0].sum() for counts in steps)
    assert all(np.array_equal(np.sort(counts, axis=None), np.sort(steps[0], axis=None)) for counts in steps)
    assert all((counts > 0).sum() == batch_size for counts in steps)  # half of the 2 x batch_size crops
    counts = steps[0][steps[0] > 0] / patches
    assert counts.min() >= cfg.ratio[0] - 0.5 / patches
    assert counts.max() <= cfg.ratio[1] + 0.5 / patches
    assert counts.mean() == pytest.approx(np.mean(cfg.ratio), abs=0.5 / patches)
    if batch_size > 1:
        assert any(not np.array_equal(counts, steps[0]) for counts in steps)
    again = masks.mask_counts(0, 3, batch_size, patches, cfg)
    assert np.array_equal(again, steps[3])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_share(share):
    counts = masks.mask_counts(0, 0, 16, 196, masks.Masks(share=share))
    assert (counts > 0).sum() == 32 * share
