"""Learning curves: accuracy of logistic regression with a part of the labels, for each network of a job.

N training images, n of them in a part.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import FuncFormatter, NullLocator

from dinolab.data import draws
from dinolab.data.sources import open_source
from dinolab.evals.comparison import read_comparison
from dinolab.evals.scores import bootstrap_interval, match_classes, most_likely
from dinolab.features.inputs import Extraction, extraction_arguments, open_encoder
from dinolab.features.options import FeatureOptions
from dinolab.files import write_whole
from dinolab.jobs.split import SEED
from dinolab.jobs.ways import REGRESSION, WAYS
from dinolab.jobs.ways_job import WaysJob
from dinolab.plotting import COLOURS, MARKERS, new_figure, open_frame, readable, save
from dinolab.schemas import read_object

SHARES = (0.1, 0.3, 1.0)  # of the labels


def parts_of(labels: np.ndarray, shares: Sequence[float] = SHARES) -> list[np.ndarray]:
    """Rows of the images in each part, int (n,), rising: of every class so large a share, and one at least. Each holds the one before.

    Args:
        labels: int (N,).
    """
    order = np.empty(len(labels), int)  # of each image within its class, in random order
    sizes = np.bincount(labels)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order[draws.rng(SEED, draws.SUBSET, int(label)).permutation(members)] = np.arange(len(members))
    return [np.flatnonzero(order < np.ceil(share * sizes[labels])) for share in shares]


def measure_curves(job: WaysJob, names: Sequence[str]) -> None:
    """Write curves.json. The features, and the accuracy with all labels, are those that the evaluations have kept."""
    from dinolab.evals.logreg_fit import logreg  # here: scikit-learn takes a second to import

    train, test = (open_source(str(side), need_labels=True) for side in (job.split.train, job.split.test))
    number = match_classes(train, test)
    how = job.evaluating()
    options = FeatureOptions(
        size=how["size"],
        device=str(how["device"]),
        precision=how["precision"],
        workers=how["workers"],
        cache=str(how["cache"]),
    )
    compared = {row.encoder: row for row in read_comparison(job.comparison).encoders}
    found: dict[str, Any] = {}
    for name in names:
        network = open_encoder(job.encoder(name))[1]
        extraction = Extraction(**extraction_arguments(network, options, job.progress))
        known, asked = (extraction.extract(network, source) for source in (train, test))
        truth, points = number[asked.labels], []
        for part in parts_of(known.labels.numpy(), SHARES[:-1]):
            rows = torch.from_numpy(part)
            layer, _ = logreg(
                known.matrix()[rows], known.labels[rows], len(train.classes), SEED, False, extraction.device
            )
            predicted = most_likely(layer(asked.matrix().to(extraction.device)).softmax(1).cpu())
            right = int((predicted == truth).sum())
            points.append({
                "labels": len(part), "accuracy": right / len(truth), "interval": bootstrap_interval(right, len(truth)),
            })  # fmt: skip
        whole = compared[job.encoder(name)].results[REGRESSION].result
        assert whole and whole.main
        points.append({"labels": len(known), "accuracy": whole.main.value, "interval": whole.main.interval})
        found[name] = points
    write_whole(job.curves, (json.dumps({"shares": SHARES, "ways": found}, indent=2) + "\n").encode())


def read_curves(job: WaysJob) -> dict[str, list[dict[str, Any]]]:
    """The points of each way's curve, from few labels to all."""
    return dict(read_object(job.curves)["ways"])


def draw_curves(job: WaysJob) -> None:
    """Draw learning_curves.png."""
    figure = new_figure(7, 4.4)
    axes = figure.add_subplot()
    curves = read_curves(job)
    for n, (name, points) in enumerate(curves.items()):
        x = [point["labels"] * (1 + 0.02 * (n - len(curves) / 2)) for point in points]  # side by side
        y = [100 * point["accuracy"] for point in points]
        ends = [[100 * abs(p["accuracy"] - p["interval"][side]) for p in points] for side in (0, 1)]
        axes.errorbar(
            x, y, ends, color=COLOURS[n % len(COLOURS)], marker=MARKERS[n % len(MARKERS)], capsize=3, elinewidth=1,
            label=readable(f"{name}: {WAYS[name].title}"),
        )  # fmt: skip
    axes.set_xscale("log")
    ticks = [point["labels"] for point in next(iter(curves.values()))]
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("labelled training images")
    axes.set_ylabel("accuracy of logistic regression in %")
    axes.set_title("Accuracy over labels, with 95 % intervals over test images", loc="left", fontsize=12)
    open_frame(axes)
    figure.legend(loc="outside lower left", ncols=1 if len(curves) > 4 else 2, frameon=False, fontsize=9)
    save(figure, job.folder.learning_curves)
