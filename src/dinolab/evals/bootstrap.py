"""Intervals of any figure by the bootstrap over test images."""

from collections.abc import Callable

import numpy as np

from dinolab.evals.scores import LEVEL

RESAMPLES = 1000


def resampled(figure: Callable[..., float], *images: int, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of a figure over resampled test images.

    Args:
        figure: the figure of the images at some rows, from int (M,) for each test set; rows may occur several times.
        images: M of each test set.
    """
    draws = np.random.default_rng(seed)
    values = [figure(*(draws.integers(0, number, number) for number in images)) for _ in range(RESAMPLES)]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
