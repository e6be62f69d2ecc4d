"""Published figures, shipped in reference/, as tables with the user's own figures on top."""

import csv
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from dinolab.evals.comparison import Comparison
from dinolab.evals.contract import Figure
from dinolab.evals.plots import Point
from dinolab.report.evaluated import Evaluated
from dinolab.report.names import data, epochs_of, method, network_of
from dinolab.report.run import Run
from dinolab.report.tables import Cell, Table


class About(NamedTuple):
    title: str
    source: str
    headings: dict[str, str]  # heading of a column, where its name in the file would not do
    name: str = "method"  # column that takes the name of an encoder


DINO, DINOV2 = "DINO, arXiv 2104.14294", "DINOv2, arXiv 2304.07193"
HEADINGS = {"knn_top1": "k-NN, %", "linear_top1": "linear, %", "arch": "network"}
REVISITED = {  # columns of the retrieval benchmarks
    f"r{place}_{level[0]}": f"{place.title()} {level}" for place in ("oxford", "paris") for level in ("medium", "hard")
}
TABLES = {
    "small_scale": About(
        "Runs on one GPU",
        "stable-pretraining (benchmarks/imagenet10/RESULTS.md), lightly (benchmarks), solo-learn (README), LightlyTrain (documentation)",
        HEADINGS,
    ),
    "imagenet": About(
        "ImageNet-1k",
        f"{DINO}, table 2; images/s on one V100, 128 a forward",
        HEADINGS | {"params_m": "parameters, M", "images_per_s_v100": "images/s"},
    ),
    "ablations": About(
        "Which component matters: ViT-S/16, 300 epochs of ImageNet-1k",
        f"{DINO}, table 7",
        HEADINGS | {"row": "", "sinkhorn_knopp": "Sinkhorn-Knopp", "multi_crop": "multi-crop"},
    ),
    "distillation": About(
        "A ViT-L distilled from a frozen ViT-g",
        f"{DINOV2}, distillation table",
        HEADINGS | {"inet1k": "ImageNet-1k, %", "segm": "segmentation", "depth_rmse": "depth, RMSE", "classif": "classification"},
    ),
    "retrieval": About(
        "Retrieval, mAP on revisited Oxford and Paris",
        f"{DINO}, table 3",
        HEADINGS | {"pretrain": "training"} | REVISITED,
        name="pretrain",
    ),
    "copy_detection": About(
        "Copy detection", f"{DINO}, table 4", HEADINGS | {"copydays_strong_map": "mAP, Copydays 'strong'"}
    ),
    "davis2017": About(
        "Video object segmentation, DAVIS 2017, frozen features at 480p",
        f"{DINO}, table 5",
        HEADINGS | {"jf_mean": "J&F mean", "j_mean": "J mean", "f_mean": "F mean"},
    ),
}  # fmt: skip


def published(runs: Sequence[Run]) -> list[Table]:
    """All tables, those first in which figures of the runs stand."""
    results = [(run, evaluated) for run in runs for evaluated in run.results]
    tables = [read_table(name, about, own_rows(name, about, results)) for name, about in TABLES.items()]
    return sorted(tables, key=lambda table: not table.own)


def own_rows(table: str, about: About, results: Sequence[tuple[Run, Evaluated]]) -> list[dict[str, str]]:
    """A row for each encoder that has a figure for a column of this table, the run's own encoder first."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for run, evaluated in sorted(results, key=lambda found: not found[0].is_own(found[1])):
        images = data(run, str(evaluated.result.data.get("test", "?")))
        own = f"{run.name} ({method(run.config)})" if run.config else run.name
        name = own if run.is_own(evaluated) else evaluated.encoder
        facts = {"arch": network_of(run, evaluated), "epochs": epochs_of(evaluated)}
        for column, text in figures_for(table, evaluated):
            row = rows.setdefault((name, images), {about.name: name, "source": "here", "data": images} | facts)
            row.setdefault(column, text)
    return list(rows.values())


def figures_for(table: str, evaluated: Evaluated) -> Iterator[tuple[str, str]]:
    """Columns of the table that the evaluation's figures belong in, and their texts."""
    for key, measured in evaluated.result.figures.items():
        figure = evaluated.declared(key)
        for place in figure.published.split():
            column, _, images = place.removeprefix(f"{table}.").partition("@")
            if place.startswith(f"{table}.") and images in ("", evaluated.result.data.get("test")):
                yield column, figure.number(measured.value)


def beside(comparison: Comparison) -> list[Table]:
    """The published tables that have a column for a figure of the comparison, with its encoders on top."""
    found = []
    for name, about in TABLES.items():
        own = []
        for row in comparison.encoders:
            results = [Evaluated(Path(), entry.result) for entry in row.results.values() if entry.result]
            texts = {column: text for one in results for column, text in figures_for(name, one)}
            if texts:
                own.append({about.name: row.name, "source": "here", "data": str(comparison.data["train"])} | texts)
        if own:
            found.append(read_table(name, about, own))
    return found


def points(figure: Figure) -> list[Point]:
    """The published values of a figure for networks whose number of parameters is published, too."""
    found = []
    for place in figure.published.split():
        table, column = place.partition("@")[0].split(".")
        for row in read_rows(table):
            if row.get("params_m") and row.get(column):
                speed = row.get("images_per_s_v100")
                parameters, about = 1e6 * float(row["params_m"]), f"{TABLES[table].title}, images/s on a V100"
                found.append(Point(parameters, float(speed) if speed else None, float(row[column]), about))
    return found


def read_table(name: str, about: About, own: Sequence[dict[str, str]]) -> Table:
    rows = read_rows(name)
    columns = list(rows[0])
    headings = [about.headings.get(column, column.replace("_", " ")) for column in columns]
    if "data" not in columns:  # all published rows are of the same images, which are not the user's
        own = [row | {about.name: f"{row[about.name]}, on {row['data']}"} for row in own]
    cells = [[cell(row.get(column, "")) for column in columns] for row in (*own, *rows)]
    return Table(about.title, f"Source: {about.source}", headings, cells, len(own))


def read_rows(name: str) -> list[dict[str, str]]:
    """The rows of a table as texts by column."""
    with files("dinolab.report").joinpath(f"reference/{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cell(text: str) -> Cell:
    try:
        return Cell(text, float(text))
    except ValueError:
        return Cell(text)
