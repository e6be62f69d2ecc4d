"""Random numbers that depend on the seed and their purpose alone.

They come from numpy's counter-based generator Philox. Seed and stream are its key, and the number of the sample, epoch or step is
the highest word of its counter. So no draw depends on the process that makes it or on earlier draws, and no two generators overlap.
"""

import numpy as np

SAMPLE, EPOCH, MASKS, SPLIT, SUBSET, STEP, SHOTS, RESAMPLE, COPIES, CLUSTERS = range(10)  # the streams


def rng(seed: int, stream: int, number: int) -> np.random.Generator:
    """The generator for one sample, epoch or step.

    Args:
        seed: seed of the run.
        stream: what the draws are for, one of the constants above.
        number: of the sample, epoch or step.
    """
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, number]))


def order(seed: int, epoch: int, images: int) -> np.ndarray:
    """The order in which a pass over the data takes the images: their positions in the source, int64 (images,)."""
    return rng(seed, EPOCH, epoch).permutation(images)


def seed(run_seed: int, step: int) -> int:
    """The seed for the random numbers that PyTorch draws in a step."""
    return int(rng(run_seed, STEP, step).integers(1 << 63))
