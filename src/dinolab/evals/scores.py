"""Figures of predicted classes: accuracy with its interval, by class, over seeds; and images that both sides share.

M test images, C classes.
"""

import logging
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinolab.data import draws
from dinolab.data.types import Source
from dinolab.errors import UserError, some
from dinolab.features.extract import FeatureSet

log = logging.getLogger(__name__)
LEVEL = 0.95
RESAMPLES = 1000  # of a bootstrap
Z = 1.96  # standard deviations on either side that hold 95 % of a normal distribution
NAMED = 3  # leaks that the warning names; the result names all


def most_likely(probabilities: Tensor) -> Tensor:
    """The class, int64 (M,), with the largest of each row's values (M, C); -1 where not all are finite."""
    return probabilities.argmax(1).where(probabilities.isfinite().all(1), -1)


def match_classes(train: Source, test: Source) -> Tensor:
    """For each class of `test` its number in `train.classes`, by name; classes that `train` lacks are numbered after them.

    A warning names those. Raises UserError if no class is shared.
    """
    missing = [name for name in test.classes if name not in set(train.classes)]
    if len(missing) == len(test.classes):
        raise UserError(
            f"{train.name} and {test.name} have no class in common ({', '.join(train.classes[:3])}, ... against "
            f"{', '.join(test.classes[:3])}, ...); name two sources that share classes"
        )
    if missing:
        log.warning("%s: no such class in %s, so counted as wrong: %s", test.name, train.name, ", ".join(missing))
    number = {name: i for i, name in enumerate([*train.classes, *missing])}
    return torch.tensor([number[name] for name in test.classes])


def among_the_first(probabilities: Tensor, truth: np.ndarray, number: int) -> np.ndarray:
    """Whether the true class is among the `number` most likely ones, bool (M,), from (M, C) and int (M,).

    Classes with the same value come in their order, as for `most_likely`. A class without any probability counts as not predicted,
    and where values are not finite none is.
    """
    known = torch.from_numpy(truth < probabilities.shape[1])
    true_class = torch.from_numpy(truth).where(known, 0)[:, None]
    own = probabilities.gather(1, true_class)
    earlier = torch.arange(probabilities.shape[1]) < true_class
    before = ((probabilities > own) | ((probabilities == own) & earlier)).sum(1)
    return ((before < number) & known & (own[:, 0] > 0) & probabilities.isfinite().all(1)).numpy()


def bootstrap_interval(right: int, images: int) -> tuple[float, float]:
    """The 95 % percentile interval of accuracy over resampled test images, without sampling.

    Drawing M predictions with replacement, of which `right` are right, gives Binomial(M, right / M) right ones: its quantiles are
    the limit of ever more resamples. Where all predictions are right, or none, the interval has no width, as with any bootstrap.
    """
    from scipy.stats import binom  # here: it takes half a second, and training imports this file

    low, high = binom.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2], images, right / images) / images
    return float(low), float(high)


def bootstrap_mean(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over resampled values, float (M,): of queries, clips or other units of test data."""
    generator = draws.rng(seed, draws.RESAMPLE, 0)
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_difference(only_first: int, only_second: int, images: int) -> tuple[float, tuple[float, float]]:
    """How much larger the first of two accuracies on the same test images is, and the 95 % interval of that.

    One image is added to each of the two counts (Bonett and Price 2012): else the interval is too narrow where these are few.

    Args:
        only_first: test images that only the first predicted right.
        only_second: test images that only the second predicted right.
        images: all test images.
    """
    apart, padded = only_first - only_second, images + 2
    half = Z * math.sqrt(only_first + only_second + 2 - apart**2 / padded)
    return apart / images, ((apart - half) / padded, (apart + half) / padded)


def accuracy_by_class(predicted: np.ndarray, truth: np.ndarray, classes: list[str]) -> dict[str, dict[str, Any]]:
    """Accuracy and number of test images of each class that has any, from int (M,) and (M,)."""
    right = predicted == truth
    return {
        name: {"accuracy": float(right[truth == c].mean()), "images": int((truth == c).sum())}
        for c, name in enumerate(classes)
        if (truth == c).any()
    }


def count_confusions(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Numbers of images of each true class (rows) and predicted class (columns), int (C, C); predictions of -1 are left out."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (truth[predicted >= 0], predicted[predicted >= 0]), 1)
    return counts


def spread(values: list[float]) -> dict[str, Any]:
    """The values with their mean and the standard deviation of the sample (n - 1), which is 0 for a single one."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"value": values, "mean": float(np.mean(values)), "std": deviation}


def over_seeds(seed: int, values: list[float]) -> dict[str, Any]:
    """The `spread` of the values of seeds `seed`, `seed` + 1, ..."""
    return {"seed": [*range(seed, seed + len(values))], **spread(values)}


def find_leaks(train: FeatureSet, test: FeatureSet) -> list[tuple[int, int]]:
    """Rows (of test, of train) with byte-identical files: each such test image once, with the first of its twins."""
    first: dict[bytes, int] = {}
    for row, digest in enumerate(train.digests.numpy()):
        first.setdefault(digest.tobytes(), row)
    twins = ((row, first.get(digest.tobytes())) for row, digest in enumerate(test.digests.numpy()))
    return [(row, twin) for row, twin in twins if twin is not None]


def warn_of_leaks(
    leaks: list[tuple[int, int]], train: Source, train_features: FeatureSet, test: Source, test_features: FeatureSet
) -> list[list[str]]:
    """The names [test image, training image] of all leaks, and a warning if there are any."""
    if not leaks:
        return []
    test_names, train_names = test.names(), train.names()
    named = [[test_names[test_features.kept[row]], train_names[train_features.kept[twin]]] for row, twin in leaks]
    log.warning(
        "LEAK: %d of %d test images (%s) are byte-identical to training images (%s): %s",
        len(leaks),
        len(test_features),
        test.name,
        train.name,
        some([" = ".join(pair) for pair in named], NAMED),
    )
    return named
