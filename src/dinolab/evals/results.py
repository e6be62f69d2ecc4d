"""What an evaluation found, in figures and files: accuracy with its interval, by class, leaks, predictions.

M test images, C classes.
"""

import csv
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from scipy.stats import binom

from dinolab.data.types import Source
from dinolab.errors import some
from dinolab.evals.confusion import draw_confusion
from dinolab.features.extract import FeatureSet
from dinolab.files import beside, write_whole

log = logging.getLogger(__name__)
LEVEL = 0.95
NAMED = 3  # leaks that the warning names; the result names all


def bootstrap_interval(right: int, images: int) -> list[float]:
    """The 95 % percentile interval of accuracy over resampled test images, without sampling.

    Drawing M answers with replacement, of which `right` are right, gives Binomial(M, right / M) right ones: its quantiles
    are what ever more resamples come to. Without a wrong answer (or a right one) it has no width, as any bootstrap's.
    """
    low, high = binom.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2], images, right / images) / images
    return [float(low), float(high)]


def score(predicted: np.ndarray, truth: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """Accuracy, its interval, and by class, of int (M,) and (M,); a prediction of -1 is never right."""
    right = predicted == truth
    by_class = {
        name: {"accuracy": float(right[truth == c].mean()), "images": int((truth == c).sum())}
        for c, name in enumerate(classes)
        if (truth == c).any()
    }
    interval = bootstrap_interval(int(right.sum()), len(right))
    return {"accuracy": float(right.mean()), "interval": interval, "per_class": by_class}


def count_confusions(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """int (C, C): images of class row that were taken for class column; predictions of -1 are left out."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (truth[predicted >= 0], predicted[predicted >= 0]), 1)
    return counts


def find_leaks(train: FeatureSet, test: FeatureSet) -> list[tuple[int, int]]:
    """Rows (of test, of train) with byte-identical files: each such test image once, with the first of its twins."""
    first: dict[bytes, int] = {}
    for row, digest in enumerate(train.digests.numpy()):
        first.setdefault(digest.tobytes(), row)
    twins = ((row, first.get(digest.tobytes())) for row, digest in enumerate(test.digests.numpy()))
    return [(row, twin) for row, twin in twins if twin is not None]


def warn_of_leaks(
    leaks: list[tuple[int, int]], train: Source, learned: FeatureSet, test: Source, asked: FeatureSet
) -> list[list[str]]:
    """[test image, training image] by name of all leaks, and a warning if there are any."""
    if not leaks:
        return []
    test_names, train_names = test.names(), train.names()
    named = [[test_names[asked.kept[row]], train_names[learned.kept[twin]]] for row, twin in leaks]
    log.warning(
        "LEAK: %d of %d test images (%s) are byte-identical to training images (%s): %s",
        len(leaks),
        len(asked),
        test.name,
        train.name,
        some([" = ".join(pair) for pair in named], NAMED),
    )
    return named


def summarise(seed: int, accuracies: list[float]) -> dict[str, Any]:
    """Of the accuracies of seeds `seed`, `seed` + 1, ...: mean, and standard deviation of the sample (n - 1)."""
    seeds = [*range(seed, seed + len(accuracies))]
    return {
        "seed": seeds, "accuracy": accuracies, "mean": float(np.mean(accuracies)), "std": float(np.std(accuracies, ddof=1))
    }  # fmt: skip


def write(
    folder: Path,
    result: dict[str, Any],
    images: list[str],
    kept: np.ndarray,
    classes: list[str],
    predicted: np.ndarray,
    probability: np.ndarray,
    truth: np.ndarray | None,
) -> None:
    """result.json, predictions.csv, and with labels confusion.png; what an earlier evaluation left of these is replaced.

    images: names (N,); kept: positions (M,) in them of those that could be read. Without labels, predictions.csv has a line for
    every image, as a submission needs it, with no label where the image could not be read.
    """
    said = [classes[c] if c >= 0 else "" for c in predicted]
    if truth is None:
        (folder / "confusion.png").unlink(missing_ok=True)
        label = dict(zip(kept.tolist(), said))
        rows = ((name, label.get(i, "")) for i, name in enumerate(images))
        write_csv(folder / "predictions.csv", ["filename", "label"], rows)
    else:
        right = (classes[c] for c in truth)
        scored = zip((images[i] for i in kept), right, said, (f"{p:.6f}" for p in probability))
        write_csv(folder / "predictions.csv", ["filename", "label", "predicted", "probability"], scored)
        title = f"{result['encoder']['name']}\n{result['protocol']['name']}: {result['accuracy']:.1%}"
        draw_confusion(count_confusions(predicted, truth, len(classes)), classes, title, folder / "confusion.png")
    content = json.dumps(result, indent=2, default=str) + "\n"
    write_whole(folder / "result.json", content.encode(errors="surrogateescape"))  # last: what has one is complete


def write_csv(file: Path, columns: list[str], rows: Iterable[Sequence[str]]) -> None:
    with beside(file) as place, place.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def table(result: dict[str, Any]) -> Table:
    """For the terminal: accuracy, other settings, leaks, and the classes, worst first."""
    low, high = result["interval"]
    title = f"{result['encoder']['name']}: {result['protocol']['name']}"
    shown = Table(title=escape(title), title_justify="left", show_edge=False, min_width=min(len(title), 78))
    for heading in ("", "accuracy", "test images"):
        shown.add_column(heading, justify="left" if not heading else "right")
    images = f"{result['data']['test_images']:,}"
    shown.add_row("[bold]all", f"[bold]{result['accuracy']:.1%} ({low:.1%} to {high:.1%})", images)
    if "seeds" in result:
        over = result["seeds"]
        shown.add_row(f"mean of {len(over['seed'])} seeds", f"{over['mean']:.1%} ± {over['std']:.1%}", images)
    for name, accuracy in result["also"].items():
        shown.add_row(name, f"{accuracy:.1%}", images)
    if result["leaks"]:
        clean = result["without_leaks"]
        shown.add_row("[red]without leaks", "-" if clean is None else f"{clean:.1%}", f"-{len(result['leaks']):,}")
    shown.add_section()
    for name, found in sorted(result["per_class"].items(), key=lambda item: item[1]["accuracy"]):
        shown.add_row(escape(name), f"{found['accuracy']:.1%}", f"{found['images']:,}")
    return shown
