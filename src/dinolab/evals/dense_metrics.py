"""Figures of predicted maps, with intervals: intersection over union of classes, and errors of depths.

N test images, C classes, M pixels.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 1000
LEVEL = 0.95
DELTA = 1.25
ERRORS = ("rmse", "abs_rel", "delta1", "delta2", "delta3")


def areas(predicted: Tensor, truth: Tensor, classes: int) -> np.ndarray:
    """Numbers of pixels of each class that are right, predicted, and true: int64 (3, C). Pixels without a true class do not count.

    Args:
        predicted, truth: classes of pixels, of one shape; negative where there is none.
    """
    counted = truth >= 0
    predicted, truth = predicted[counted].long(), truth[counted].long()
    groups = (truth[predicted == truth], predicted, truth)
    return torch.stack([torch.bincount(group, minlength=classes) for group in groups]).numpy()


def iou_figures(total: np.ndarray) -> dict[str, Any]:
    """Figures from areas summed over images, as mmsegmentation defines them.

    A class that is neither predicted nor true has no IoU and does not enter the mean; one that is only predicted has IoU 0.

    Args:
        total: (..., 3, C).

    Returns:
        iou and accuracy of each class (..., C), NaN where they have none; miou, mean_accuracy, pixel_accuracy (...).
    """
    right, predicted, true = np.moveaxis(total.astype(np.float64), -2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, accuracy = right / (predicted + true - right), right / true
        pixels = right.sum(-1) / true.sum(-1)
    return {
        "iou": iou, "accuracy": accuracy, "miou": mean_of_known(iou), "mean_accuracy": mean_of_known(accuracy),
        "pixel_accuracy": pixels,
    }  # fmt: skip


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis without NaN; NaN where there is nothing else."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(-1) / known.sum(-1)


def constant_iou(truth: np.ndarray, constant: int) -> float:
    """The mIoU of a map that has one class everywhere, from the true areas (C,)."""
    right = np.zeros_like(truth)
    predicted = right.copy()
    right[constant], predicted[constant] = truth[constant], truth.sum()
    return float(iou_figures(np.stack([right, predicted, truth]))["miou"])


def resampled(images: int, seed: int) -> np.ndarray:
    """How often each of N images is drawn in each bootstrap resample, int (RESAMPLES, N)."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES)


def quantiles(values: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrapped values; those that are not finite are left out."""
    low, high = np.quantile(values[np.isfinite(values)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def iou_intervals(by_image: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals over test images of miou, mean_accuracy and pixel_accuracy, from areas (N, 3, C)."""
    drawn = resampled(len(by_image), seed) @ by_image.reshape(len(by_image), -1)
    found = iou_figures(drawn.reshape(-1, *by_image.shape[1:]))
    return {key: quantiles(found[key]) for key in ("miou", "mean_accuracy", "pixel_accuracy")}


def depth_errors(predicted: Tensor, truth: Tensor, low: float, high: float) -> dict[str, float]:
    """Errors of one image's depths, over the pixels whose true depth lies between `low` and `high`, both excluded.

    rmse in the maps' unit, abs_rel relative to the true depth, and delta1 to delta3: the share of pixels whose depth is off by a
    factor below 1.25, 1.25^2 and 1.25^3 (Eigen et al., arXiv 1406.2283). All NaN where there is no such pixel.
    """
    valid = (truth > low) & (truth < high)
    if not valid.any():
        return dict.fromkeys(ERRORS, float("nan"))
    p, t = predicted[valid].double(), truth[valid].double()
    factor = torch.maximum(p / t, t / p)
    deltas = [(factor < DELTA**power).double().mean() for power in (1, 2, 3)]
    found = ((p - t).square().mean().sqrt(), ((p - t).abs() / t).mean(), *deltas)
    return dict(zip(ERRORS, map(float, found)))


def mean_errors(by_image: list[dict[str, float]], seed: int) -> dict[str, tuple[float, tuple[float, float]]]:
    """The mean of each error over the images that have one, with its bootstrap interval over these images."""
    rows = np.array([[errors[key] for key in ERRORS] for errors in by_image])
    rows = rows[np.isfinite(rows).all(1)]
    drawn = resampled(len(rows), seed) @ rows / len(rows)
    return {key: (float(rows[:, n].mean()), quantiles(drawn[:, n])) for n, key in enumerate(ERRORS)}
