"""Published figures, shipped in reference/, as tables with the user's own rows on top."""

import csv
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from dinolab.report.facts import Result, Run
from dinolab.report.names import data, epochs_of, method, network_of
from dinolab.report.tables import Cell, Table


class About(NamedTuple):
    title: str
    source: str
    headings: dict[str, str]  # column: its heading, where its name in the file does not do
    own: dict[str, str]  # column: the protocol whose accuracy belongs there


DINO, DINOV2 = "DINO, arXiv 2104.14294", "DINOv2, arXiv 2304.07193"
ACCURACIES = {"knn_top1": "knn", "linear_top1": "linear"}
HEADINGS = {"knn_top1": "k-NN, %", "linear_top1": "linear, %", "arch": "network", "data": "data"}
TABLES = {
    "small_scale": About(
        "Runs on one GPU",
        "stable-pretraining (benchmarks/imagenet10/RESULTS.md), lightly (benchmarks), solo-learn (README), LightlyTrain (documentation)",
        HEADINGS,
        ACCURACIES,
    ),
    "imagenet": About(
        "ImageNet-1k",
        f"{DINO}, table 2; images/s on one V100, 128 a forward",
        HEADINGS | {"params_m": "parameters, M", "images_per_s_v100": "images/s"},
        ACCURACIES,
    ),
    "ablations": About(
        "Which component matters: ViT-S/16, 300 epochs of ImageNet-1k",
        f"{DINO}, table 7",
        HEADINGS | {"row": "", "sinkhorn_knopp": "Sinkhorn-Knopp", "multi_crop": "multi-crop"},
        {},
    ),
    "distillation": About(
        "A ViT-L distilled from a frozen ViT-g",
        f"{DINOV2}, distillation table",
        HEADINGS | {"inet1k": "ImageNet-1k, %", "segm": "segmentation", "depth_rmse": "depth, RMSE", "classif": "classification"},
        {},
    ),
    "retrieval": About(
        "Retrieval, mAP on revisited Oxford and Paris",
        f"{DINO}, table 3",
        HEADINGS | {f"r{place}_{level[0]}": f"{place.title()} {level}" for place in ("oxford", "paris") for level in ("medium", "hard")},
        {},
    ),
    "copy_detection": About(
        "Copy detection", f"{DINO}, table 4", HEADINGS | {"copydays_strong_map": "mAP, Copydays 'strong'"}, {}
    ),
    "davis2017": About(
        "Video object segmentation, DAVIS 2017, frozen features at 480p",
        f"{DINO}, table 5",
        HEADINGS | {"jf_mean": "J&F mean", "j_mean": "J mean", "f_mean": "F mean"},
        {},
    ),
}  # fmt: skip


def published(runs: Sequence[Run]) -> list[Table]:
    """All tables, those first that the runs' own accuracies stand in."""
    own = own_rows([(run, result) for run in runs for result in run.results])
    return [read_table(name, about, own if about.own else []) for name, about in TABLES.items()]


def own_rows(results: Sequence[tuple[Run, Result]]) -> list[dict[str, str]]:
    """A row for each encoder that was evaluated, the run's own first, its accuracies by column."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for run, result in sorted(results, key=lambda found: not found[0].is_own(found[1])):
        column = next((column for column, kind in ACCURACIES.items() if kind == result.kind), None)
        if column is None or result.accuracy is None:
            continue
        images = data(run, str(result.data.get("test", "?")))
        own = f"{run.name} ({method(run.config)})" if run.config else run.name
        name = own if run.is_own(result) else result.encoder
        about = {"arch": network_of(run, result), "epochs": epochs_of(result)}
        row = rows.setdefault((name, images), {"method": name, "source": "here", "data": images} | about)
        row.setdefault(column, f"{100 * result.accuracy:.1f}")
    return list(rows.values())


def read_table(name: str, about: About, own: Sequence[dict[str, str]]) -> Table:
    with files("dinolab.report").joinpath(f"reference/{name}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0])
    headings = [about.headings.get(column, column.replace("_", " ")) for column in columns]
    if "data" not in columns:  # which says what the published rows are of
        own = [row | {"method": f"{row['method']}, on {row['data']}"} for row in own]
    cells = [[cell(row.get(column, "")) for column in columns] for row in (*own, *rows)]
    return Table(about.title, f"Source: {about.source}", headings, cells, len(own))


def cell(text: str) -> Cell:
    try:
        return Cell(text, float(text))
    except ValueError:
        return Cell(text)
