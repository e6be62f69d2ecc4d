"""The panels in which a run's figures are drawn: by training into curves.png, and by the report."""

from collections.abc import Mapping
from typing import NamedTuple


class Panel(NamedTuple):
    """One small chart of figures from metrics.jsonl over the steps."""

    group: str  # heading under which the report shows it
    title: str
    series: Mapping[str, str]  # figure's name in metrics.jsonl: its label in the legend
    log: bool = False  # logarithmic axis
    zero: bool = False  # the axis begins at 0
    percent: bool = False  # values are shares of 1, shown in per cent
    level: str = ""  # figure whose first value is drawn as a dashed horizontal line, for example log_k
    level_label: str = ""  # the line's label in the legend


HEALTH, SPEED, LOSS, SCHEDULES = "Health", "Speed", "Loss and accuracy", "Schedules"  # groups
KNN = Panel(LOSS, "k-NN accuracy", {"knn": "accuracy"}, percent=True)
GRADIENT = Panel(HEALTH, "norm of the gradient", {"grad_norm": "norm"}, log=True)
SHARED = (  # figures of every run, whatever its method, after the method's own
    Panel(LOSS, "distance from the start's features", {"pull": "1 - cosine"}, zero=True),
    Panel(SPEED, "images/s", {"images_per_s": "images/s"}, zero=True),
    Panel(SPEED, "waiting for data", {"data_wait": "wait"}, zero=True, percent=True),
    Panel(SCHEDULES, "learning rate", {"lr": "learning rate"}, zero=True),
    Panel(SCHEDULES, "weight decay", {"weight_decay": "weight decay"}, zero=True),
)
