"""Judges the k-NN accuracies of a run: which is the best, and whether training has made the weights it started from worse."""

import math
from collections.abc import Sequence

from dinolab.rundir import Row

DEVIATIONS = 1.96  # on each side of a 95 % interval
REMEDY = (
    "Remedy, in a new run.dir: a lower optim.lr, a longer init.freeze_backbone and optim.warmup, init.pull=1, optim.layer_decay=0.8; "
    "for a ViT init.lora=8; with a momentum teacher ema.start nearer to 1"
)


def clearly_below(row: Row, start: Row) -> bool:
    """Whether an accuracy lies below that of the start by more than the 95 % interval of a difference of two shares.

    The interval takes the two as measured on different images. On the same images the difference varies less, so a fall that is
    clear here is clear all the more.
    """
    now, then = row["knn"], start["knn"]
    variance = (now * (1 - now)) / row["knn_test_images"] + (then * (1 - then)) / start["knn_test_images"]
    return bool(then - now > DEVIATIONS * math.sqrt(variance))


def worse_in_a_row(rows: Sequence[Row]) -> int:
    """How many of the last measurements, without a break, are clearly below that of step 0."""
    start = next((row for row in rows if row["step"] == 0), None)
    count = 0
    for row in reversed(rows):
        if start is None or not clearly_below(row, start):
            break
        count += 1
    return count


def best_of(rows: Sequence[Row]) -> Row | None:
    """The measurement with the highest accuracy, of equal ones the earliest."""
    return max(rows, key=lambda row: (row["knn"], -row["step"]), default=None)
