"""The page about the JSON files that dinolab writes. Fields and types come from the code, their meanings stand here."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from scripts.docs.markdown import paragraph, plain, table

from dinolab.evals.result import Measured, Result
from dinolab.grid.findings import Findings, Found
from dinolab.methods import METHODS
from dinolab.panels import GRADIENT, SHARED
from dinolab.schemas import CARD, CURATION, ENVIRONMENT, INFO, KINDS

Meanings = Mapping[str, str]
RESULT: Meanings = {
    "evaluation": "name of the evaluation, as after `dinolab eval`",
    "encoder": "`name`, `dim` (width of the features), `patch_size` (pixels), `info` (as in `model.json`)",
    "data": "names of the sources, the split, numbers of images, classes",
    "settings": "size in pixels (height, width), precision, the evaluation's options",
    "figures": "by the keys in [evaluations](evaluations.md), which has their units; the first is the main one",
    "seed": "seed of the split and of what is trained",
    "other": "the main figure under other settings, such as `k = 10`",
    "per_class": "by class: `accuracy`, a share from 0 to 1, and `images`, its test images",
    "leaks": "pairs of a test and a training image with the same bytes",
    "seeds": "with several seeds: lists `seed` and `value`, and `mean` and `std` of the values",
    "environment": "machine and versions, as in `environment.json`",
    "tries": "the main figure of repeated draws: `value`, a list, `mean` and `std`",
    "tests": "results on further test sets; a field that is the same as here is left out",
    "parts": "figures of parts of the test data, such as clips, by part and key",
}
MEASURED: Meanings = {
    "value": "in the unit of the figure; shares are from 0 to 1",
    "interval": "lower and upper end of the 95 % interval over test images",
}
CARD_FIELDS: Meanings = {
    "format": "`dinolab 1`",
    "image_size": "side of the images that it was trained on, pixels",
    "pixels": "`channels`; `maximum`, the value that becomes 1; `mean` and `deviation` of each channel, after that division",
    "model": "the options of the architecture, `model.*` in [options](training.md)",
    "info": "where the weights come from, below",
}
INFO_FIELDS: Meanings = {
    "curation": "manifests of the curated set that it was trained on, the first stage first",
    "method": "the method of the training",
    "network": "`teacher` or `student`: whose weights these are",
    "step": "steps of the training that the weights have seen",
    "images": "number of training images",
    "config": "all options of the training",
}
ENVIRONMENT_FIELDS: Meanings = {
    "images": "number of training images",
    "names_crc32": "CRC-32 of their names, by which a resumed run knows them again",
    "data": "`data.path`",
    "packages": "version of each package",
    "curation": "as in `model.json`",
}
CURATION_FIELDS: Meanings = {
    "dinolab": "version of dinolab",
    "preprocessing": "size in pixels and precision of the embedding",
    "parent": "SHA-256 of the manifest before this one; empty for the first",
    "compared": "SHA-256 of the manifest of the images that these were compared with, or empty",
    "rows": "SHA-256 of the rows of all images",
    "stage": "name of the stage",
    "sha256": "SHA-256 of this manifest, where another file quotes it",
    "width": "numbers in an embedding",
    "images": "number of images",
    "unreadable": "number of those that cannot be read",
    "encoder": "`name`, and SHA-256 of the weights",
    "sources": "names of the sources, in the order in which they were added",
    "options": "options of the stage",
    "figures": "what the stage found; different for each stage",
}
FOUND: Meanings = {
    "values": "accuracy by seed, shares from 0 to 1",
    "test_images": "number of test images",
    "mean": "mean over seeds, share",
    "std": "standard deviation over seeds, share; null for a single seed",
    "interval": "95 % interval of the mean, over test images",
    "difference": "difference to the first row, over the seeds that both have, share",
    "difference_interval": "its 95 % interval",
    "published": "the published figure, in the unit of its table",
}
FINDINGS: Meanings = {
    "row": "name of the row",
    "results": "by evaluation, below",
    "steps": "steps of a run",
    "images": "images that a run sees, with repetitions",
    "images_per_s": "images per second, the mean over runs of each one's median",
    "peak_memory": "bytes, the largest of the runs",
    "cpu_seconds": "CPU seconds of the training, mean over runs",
    "remarks": "collapses, failures, missing runs, in words",
    "alarms": "what the alarms in the remarks mean",
    "published_network": "network of the published figures, as their table names it",
}
LINE: Meanings = {
    "step": "number of the step, from 1; 0 is before the training",
    "epoch": "passes over the images so far",
    "skipped": "steps since the line before that were left out because the loss was not finite (`optim.nan=skip`)",
    "knn": "k-NN accuracy, share from 0 to 1; in lines of their own",
    "knn_train_images": "reference images of the k-NN accuracy",
    "knn_test_images": "test images of the k-NN accuracy",
}


def files() -> Iterable[str]:
    yield from ("# Files", "")
    yield from paragraph(
        "What is in the JSON files that dinolab writes, to be read by your own code. A field may be missing or null where it does not "
        "apply, and later versions may add fields. Texts are UTF-8, times are UTC."
    )
    yield from section(
        "Evaluations: result.json", "`RUN/eval/EVALUATION/result.json`; `version` is 2.", rows(Result, RESULT)
    )
    yield from ("Each of `figures`:", "", *section("", "", rows(Measured, MEASURED)))
    yield from paragraph(
        "`eval all` writes `all.json`: `data`, `settings`, `environment`, and `encoders`, a list with the result of each evaluation."
    )
    yield from metrics()
    yield from section("Weights: model.json", "Beside `model.safetensors`.", schema_rows(CARD, CARD_FIELDS))
    yield from ("In `info`:", "", *section("", "", schema_rows(INFO, INFO_FIELDS)))
    about = "`RUN/environment.json`; it also has `python`, `platform`, `cpu`, `cores`, `cuda`, `gpu` and `time`."
    yield from section("Runs: environment.json", about, schema_rows(ENVIRONMENT, ENVIRONMENT_FIELDS))
    about = (
        "`grid.json` in the grid's folder: `grid`, `title`, `base`, `words`, `each`, `published`, `environment`, and `rows`, a list. "
        "A row also has `words`, its options."
    )
    found = [(name, "a text" if name == "`row`" else kind, words) for name, kind, words in rows(Findings, FINDINGS)]
    yield from section("Grids: grid.json", about, found)
    yield from ("Each of `results`:", "", *section("", "", rows(Found, FOUND)))
    about = "`curation.json` of a set, and `STAGE.json` of each stage, which has only some of the fields."
    yield from section("Curated sets: curation.json", about, schema_rows(CURATION, CURATION_FIELDS))


def section(title: str, about: str, found: list[tuple[str, str, str]]) -> Iterable[str]:
    if title:
        yield from (f"## {title}", "")
    yield from paragraph(about)
    yield from table(("field", "type", "meaning"), found)


def metrics() -> Iterable[str]:
    """The figures of a training's log, by the panels in which they are drawn."""
    yield from ("## Training: metrics.jsonl", "")
    yield from paragraph(
        "`RUN/metrics.jsonl`, an object in each line. Entropies and cross-entropies are in nats. A line has the figures of its method."
    )
    users: dict[tuple[str, str, str], list[str]] = {}
    for name, method in METHODS.items():
        for panel in method.PANELS:
            for key, label in panel.series.items():
                words = panel.title if label == panel.title else f"{panel.title}: {label}"
                users.setdefault((key, words, "share" if panel.percent else "number"), []).append(name)
    always = [(key, "a number" if key in ("epoch", "knn", "skipped") else "a whole number", LINE[key]) for key in LINE]
    for panel in (GRADIENT, *SHARED):
        always += [(key, "a share" if panel.percent else "a number", panel.title) for key in panel.series]
    yield from table(("field", "type", "meaning"), [(f"`{key}`", kind, words) for key, kind, words in always])
    yield from table(
        ("figure", "meaning", "unit", "methods"),
        [(f"`{key}`", plain(words), unit, ", ".join(names)) for (key, words, unit), names in users.items()],
    )


def rows(kind: Any, meanings: Meanings) -> list[tuple[str, str, str]]:
    """A row for each field of a dataclass."""
    types = get_type_hints(kind)
    return [(f"`{f.name}`", spelled(types[f.name]), meanings[f.name]) for f in dataclasses.fields(kind)]


def schema_rows(schema: Mapping[str, Any], meanings: Meanings) -> list[tuple[str, str, str]]:
    """A row for each key of a schema."""
    return [
        (f"`{key}`", KINDS[type(kind) if isinstance(kind, dict | list) else kind], meanings[key])
        for key, kind in schema.items()
    ]


def spelled(kind: Any) -> str:
    """A type in words, as JSON has it."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(spelled(one) for one in get_args(kind))
    known = {**KINDS, tuple: "a list"}
    return known.get(get_origin(kind) or kind, "a mapping")  # a dataclass is a mapping in JSON
