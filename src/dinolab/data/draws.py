"""Random draws that are a pure function of what they are for.

numpy's counter-based Philox, keyed by the seed and the stream, with the number in the counter's highest word: no draw
depends on which process makes it, nor on what was drawn before, and no two numbers can ever overlap.
"""

import numpy as np

SAMPLE, EPOCH, MASKS, SPLIT, SUBSET, STEP = range(6)  # the streams


def rng(seed: int, stream: int, number: int) -> np.random.Generator:
    """The generator of one sample, epoch or step."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, number]))


def seed(run_seed: int, step: int) -> int:
    """The seed of what PyTorch draws in a step."""
    return int(rng(run_seed, STEP, step).integers(1 << 63))
