"""The measures of video object segmentation: how well a mask covers an object (J), and how well it follows its contour (F).

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016), as computed by the
evaluation of DAVIS 2017. Masks are bool (H, W).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

TOLERANCE = 0.008  # distance between contours that counts as none, as a share of the image's diagonal
ENOUGH = 0.5  # recall is the share of frames above this value


class Statistics(NamedTuple):
    """Figures of the values of one object over the frames of a clip."""

    mean: float
    recall: float  # share of frames above ENOUGH
    decay: float  # mean of the first quarter of the frames, less that of the last


def region(truth: np.ndarray, predicted: np.ndarray) -> float:
    """J, the pixels in both masks over those in either (intersection over union); 1 where both are empty."""
    union = np.count_nonzero(truth | predicted)
    return np.count_nonzero(truth & predicted) / union if union else 1.0


def boundary(truth: np.ndarray, predicted: np.ndarray, pixels: int | None = None) -> float:
    """F, the harmonic mean of two shares: of the predicted contour that is near the true one, and of the true one near the predicted.

    It is 1 where neither mask has a contour, and 0 where one has none.

    Args:
        pixels: the largest distance that is near; by default TOLERANCE of the diagonal, rounded up.
    """
    ours, theirs = contour(predicted), contour(truth)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    near = math.ceil(TOLERANCE * math.hypot(*truth.shape)) if pixels is None else pixels
    precision, recall = share_near(ours, theirs, near), share_near(theirs, ours, near)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: np.ndarray) -> np.ndarray:
    """The pixels that differ from their right, lower or lower right neighbour, bool (H, W); beyond the border all is as it is at it."""
    below = np.vstack([mask[1:], mask[-1:]])
    found = (mask != below) | (mask != right_of(mask)) | (mask != right_of(below))
    return found


def right_of(mask: np.ndarray) -> np.ndarray:
    """The mask's right neighbours, bool (H, W); those of the last column are itself."""
    return np.hstack([mask[:, 1:], mask[:, -1:]])


def share_near(some: np.ndarray, others: np.ndarray, pixels: int) -> float:
    """The share of the pixels of `some` with one of `others` within so many pixels."""
    distance = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[some] < pixels + 1e-3).mean())


def statistics(values: Sequence[float]) -> Statistics:
    """Mean, recall and decay of the values of successive frames; NaN values count as frames, and in no mean.

    Neighbouring quarters share a frame, as in the evaluation of DAVIS.
    """
    found = np.array(values, float)
    borders = np.round(np.linspace(1, len(found), 5) + 1e-10).astype(int) - 1
    first, last = (found[start : stop + 1] for start, stop in (borders[:2], borders[-2:]))
    decay = np.nanmean(first) - np.nanmean(last)
    return Statistics(float(np.nanmean(found)), float((found > ENOUGH).mean()), float(decay))
