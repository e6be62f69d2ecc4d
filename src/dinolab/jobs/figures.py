"""The figures of a job's ways: accuracy, difference to the first way, and what each cost."""

import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dinolab.evals.comparison import Row, read_comparison
from dinolab.evals.contract import Figure
from dinolab.evals.result import Json, Measured, Result
from dinolab.evals.scores import paired_difference
from dinolab.evals.throughput import throughput
from dinolab.features.inputs import extraction_arguments, open_encoder
from dinolab.features.options import FeatureOptions
from dinolab.files import write_whole
from dinolab.jobs.advice import recommend
from dinolab.jobs.curves import read_curves
from dinolab.jobs.ways import FINETUNING, LABELS, NEAREST, REGRESSION, WAYS, without_labels
from dinolab.jobs.ways_job import WaysJob
from dinolab.rundir import PREDICTIONS, RESULT
from dinolab.schemas import STAGE, read_object

SHARE = Figure("accuracy", "accuracy")


@dataclass
class WayFigures:
    """What one way gave, and what it cost."""

    name: str
    title: str
    network: str  # its architecture
    evaluation: str  # that gave the accuracy
    accuracy: Measured
    knn: Measured | None
    epochs: float | None  # of the training
    cpu_hours: float  # of processor time, with the evaluation
    parameters: int
    images_per_s: float | None  # of inference
    folder: Path  # of the evaluation
    right: dict[str, bool] = field(default_factory=dict)  # by test image
    difference: Measured | None = None  # to the first way

    @property
    def sure(self) -> bool:
        """Whether the difference to the first way is one."""
        return bool(
            self.difference
            and self.difference.interval
            and not self.difference.interval[0] <= 0 <= self.difference.interval[1]
        )


def read_figures(job: WaysJob) -> list[WayFigures]:
    """The figures of the ways that are gone, in their order."""
    rows = {row.encoder: row for row in read_comparison(job.comparison).encoders}
    found = [
        with_labels(job, name, rows) if WAYS[name].kind == LABELS else without(job, name, rows[job.encoder(name)])
        for name in job.going
    ]
    for one in found:
        one.right = right_images(one.folder)
    for one in found[1:]:
        one.difference = difference(one.right, found[0].right)
    return found


def without(job: WaysJob, name: str, row: Row) -> WayFigures:
    """Of a way without labels."""
    entry, nearest = row.results[REGRESSION], row.results[NEAREST].result
    assert entry.result and entry.result.main and entry.folder
    network = open_encoder(job.encoder(name))[1]
    speed = row.throughput["images_per_s"] if row.throughput else None
    return WayFigures(
        name, WAYS[name].title, describe(network), REGRESSION, entry.result.main, nearest.main if nearest else None,
        job.decided().get("epochs", {}).get(name), cpu_hours(job, name), parameters(network), speed, Path(entry.folder),
    )  # fmt: skip


def with_labels(job: WaysJob, name: str, rows: dict[str, Row]) -> WayFigures:
    """Of a way with labels."""
    folder = job.result(name)
    result = Result.from_json(read_object(folder / RESULT))
    assert result.main
    start = job.decided()["starts"][name]
    network = open_encoder(start)[1]
    title, spent = WAYS[name].title, cpu_hours(job, name)
    if WAYS[name].best:
        way = next(one for one in without_labels(job.going) if job.encoder(one) == start)
        title, spent = f"{way} fine-tuned with labels", spent + cpu_hours(job, way)
    measured = rows[start].throughput if start in rows else None
    speed = measured["images_per_s"] if measured else speed_of(job, network)
    return WayFigures(
        name, title, describe(network), FINETUNING, result.main, None, result.settings.get("epochs"),
        spent, parameters(network), speed, folder,
    )  # fmt: skip


def speed_of(job: WaysJob, network: Any) -> float:
    """Images per second of a network's forward pass, at the size of the evaluations."""
    how = job.evaluating()
    options = FeatureOptions(size=how["size"], device=str(how["device"]), precision=how["precision"])
    arguments = extraction_arguments(network, options, False)
    return float(throughput(network, arguments["size"], arguments["device"], arguments["precision"])["images_per_s"])


def describe(network: Any) -> str:
    """The architecture in words."""
    if hasattr(network, "backbone"):
        return str(network.backbone.describe())
    return type(getattr(network, "model", network)).__name__


def parameters(network: Any) -> int:
    return sum(p.numel() for p in network.parameters())


def cpu_hours(job: WaysJob, name: str) -> float:
    mark = read_object(job.folder.stages / f"{name}.json", STAGE)
    return float(mark.get("cpu_seconds", 0.0)) / 3600


def right_images(folder: Path) -> dict[str, bool]:
    """Which test images were predicted right, from predictions.csv of an evaluation."""
    with (folder / PREDICTIONS).open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
        return {row["filename"]: row["label"] == row["predicted"] for row in csv.DictReader(opened)}


def difference(one: dict[str, bool], other: dict[str, bool]) -> Measured:
    """How much larger the first accuracy is, over the test images that both have."""
    images = sorted(one.keys() & other.keys())
    a, b = np.array([one[i] for i in images], bool), np.array([other[i] for i in images], bool)
    return Measured(*paired_difference(int((a & ~b).sum()), int((b & ~a).sum()), len(images)))


def write_figures(job: WaysJob, rows: list[WayFigures]) -> WayFigures:
    """Write figures.json and table.md; gives the way that is recommended."""
    curves = read_curves(job)
    taken, sentences = recommend(rows, curves, difference)
    table = [cells(one) for one in rows]
    headings = [
        "way",
        "k-NN, %",
        "accuracy, %",
        "by",
        f"against {rows[0].name}",
        "epochs",
        "CPU-hours",
        "parameters",
        "images/s",
    ]
    remarks = notes(job, rows)
    labels = [f"{point['labels']:,}" for point in next(iter(curves.values()))]
    curve_rows = [[name, *(SHARE.number(point["accuracy"]) for point in points)] for name, points in curves.items()]
    content: Json = {
        "take": taken.name,
        "recommendation": sentences,
        "table": [headings, *table],
        "curves": [["labels", *labels], *curve_rows],
        "notes": remarks,
        "ways": {one.name: facts(one) for one in rows},
    }
    write_whole(job.folder.figures, (json.dumps(content, indent=2) + "\n").encode())
    parts = [
        " ".join(sentences),
        markdown([headings, *table]),
        markdown(content["curves"]),
        "\n".join(f"- {text}" for text in remarks),
    ]
    write_whole(job.table, ("\n\n".join(parts) + "\n").encode())
    return taken


def facts(one: WayFigures) -> Json:
    return {key: value for key, value in asdict(one).items() if key != "right"} | {"folder": str(one.folder)}


def cells(one: WayFigures) -> list[str]:
    """A line of the table."""
    apart = "-"
    if one.difference and one.difference.interval:
        low, high = one.difference.interval
        apart = f"{100 * one.difference.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    speed = f"{one.images_per_s:,.0f}" if one.images_per_s else "-"
    epochs = f"{one.epochs:g}" if one.epochs else "-"
    return [
        one.name, shown(one.knn), shown(one.accuracy), one.evaluation, apart, epochs, f"{one.cpu_hours:.2f}",
        f"{one.parameters / 1e6:.1f} M", speed,
    ]  # fmt: skip


def shown(found: Measured | None) -> str:
    """76.8 (74.2-79.4)"""
    if found is None:
        return "-"
    interval = " ({}-{})".format(*map(SHARE.number, found.interval)) if found.interval else ""
    return SHARE.number(found.value) + interval


def markdown(lines: list[list[str]]) -> str:
    headings, *rows = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *rows))


def notes(job: WaysJob, rows: list[WayFigures]) -> list[str]:
    """Sentences that explain the table."""
    split = job.split.facts
    found = [
        f"{split['train']['images']:,} training images, {split['test']['images']:,} test images, {len(split['classes'])} classes; "
        f"{split['unlabelled_images']:,} images without a label.",
        *(f"{one.name}: {one.title}, {one.network}." for one in rows),
        f"In brackets are 95 % intervals over test images. The differences to {rows[0].name} are in points, on the same images; "
        "where the interval does not hold 0, there is one.",
        "CPU-hours are the processor time of a way with its evaluation, and of the way it starts from.",
    ]
    return found + [f"Left out: {name}, {why}." for name, why in job.left_out.items()]
