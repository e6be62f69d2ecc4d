"""Several encoders by several protocols on the same images: `dinolab eval all`, or `dinolab.compare`.

Each result is written as soon as it is there, and one that is there already, of the same weights, images and settings, is taken
over; so what fails or is stopped costs nothing but itself.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dinolab.data.types import Source
from dinolab.errors import UserError, reason
from dinolab.evals.comparison_table import failures, markdown
from dinolab.evals.evaluate import PROTOCOLS, evaluate
from dinolab.evals.inputs import open_device, open_encoder, open_images, refuse_below, refuse_unknown
from dinolab.evals.plots import draw_accuracies, draw_speeds
from dinolab.evals.throughput import throughput
from dinolab.features import cache as kept_features
from dinolab.features.extract import PRECISIONS
from dinolab.files import file_name, write_whole
from dinolab.models.backbone import make_backbone
from dinolab.models.encoder import BackboneEncoder

log = logging.getLogger(__name__)
DEFAULT = ("knn", "logreg", "linear")
UNTRAINED = "untrained"
FORMAT = "results 1"  # to be raised when the same settings give other results
FACTS = ("accuracy", "interval", "without_leaks", "also", "seeds", "protocol")  # of a result that the summary repeats

Row = dict[str, Any]  # an encoder: name, encoder, and results by protocol; or failure
Contender = str | Path | nn.Module


@contextmanager
def said_once() -> Iterator[None]:
    """Warnings about the images, which every evaluation finds again, are logged once inside."""
    seen: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return message not in seen and not seen.add(message)  # type: ignore[func-returns-value]

    loggers = [logging.getLogger(f"dinolab.evals.{name}") for name in ("features", "knn", "results", "splits")]
    for logger in loggers:
        logger.addFilter(new)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(new)


@said_once()
def compare(
    encoder: Contender,
    against: Sequence[Contender],
    train: str | Path | Source,
    test: str | Path | Source | None = None,
    out: str | Path | None = None,
    *,
    protocols: Sequence[str] = DEFAULT,
    size: int | tuple[int, int] | None = None,
    precision: str = "fp32",
    seed: int = 0,
    seeds: int = 1,
    device: str | torch.device | None = None,
    workers: int = 0,
    cache: str | Path | None = kept_features.FOLDER,
    progress: bool = False,
    environment: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Accuracy of each encoder by each protocol, and images/s of its bare forward.

    Args:
        encoder, against: what `dinolab.load` takes, or "pixels", or encoders, which are named by their class; in `against` also
            "untrained", the architecture of `encoder` with initial weights.
        train, test: labelled images, see `evaluate`; without `test` a part of `train` is held out.
        out: folder for all.json, table.md, accuracy.png, accuracy_over_throughput.png, and what `evaluate` writes, in
            ENCODER/PROTOCOL; None writes nothing, and takes over nothing.
        size: side, or height and width, of the images in pixels; by default each encoder's own.
        device: "auto", "cpu", "cuda" or "mps", to which all are moved; by default where `encoder` is.

    Returns:
        What all.json holds: data, settings, environment, encoders: for each name, encoder, size, dim, throughput, and results
        by protocol: accuracy, interval, also, without_leaks, seeds, folder; or, where it failed, failure: the reason.

    Raises:
        UserError: images or labels are missing, or not one encoder could be evaluated.
    """
    for protocol in protocols:
        refuse_unknown("evaluation", protocol, PROTOCOLS)
    refuse_unknown("precision", precision, PRECISIONS)
    refuse_below(1, seeds=seeds, size=size)
    refuse_below(0, seed=seed, workers=workers)
    device, sources, out = open_device(device, encoder), open_images(train, test), Path(out) if out else None
    if sources[-1].labels is None:
        raise UserError(f"{sources[-1].name} has no labels, and without them there is no accuracy to compare")
    if out:
        out.mkdir(parents=True, exist_ok=True)
    given = list(dict.fromkeys(one if isinstance(one, nn.Module) else str(one) for one in (encoder, *against)))
    before = read_results(out / "all.json") if out else {}
    rows: list[Row] = []
    summary = {
        "data": {"train": sources[0].name, "test": sources[1].name if test is not None else None},
        "settings": {"protocols": [*protocols], "precision": precision, "seed": seed, "seeds": seeds},
        "environment": environment,
        "encoders": rows,
    }
    named = names(given)
    for which, name, label in zip(given, named, labels(named)):
        row: Row = {"name": label, "encoder": name, "results": {}}
        rows.append(row)
        try:
            like = untrained(encoder, seed) if which == UNTRAINED else which
            _, opened, sides = open_encoder(like, size)
            row |= {"size": sides, "dim": getattr(opened, "dim", None)}
            row["throughput"] = throughput(opened, sides, device, precision)
        except (UserError, RuntimeError) as error:  # RuntimeError: out of memory, sizes that it does not take
            row["failure"] = reason(error)
            log.warning("%s: %s", name, row["failure"])
        else:
            for protocol in sorted(protocols, key=lambda name: name != "linear"):  # whose features serve for the others
                key = fingerprint(opened, sources, (protocol, sides, precision, seed, seeds))
                folder = out / file_name(label) / protocol if out else None
                row["results"][protocol] = before.get(key) or run_one(
                    protocol, opened, sources, folder, key, size=sides, precision=precision, seed=seed, seeds=seeds,
                    device=device, workers=workers, cache=cache, progress=progress, name=label, environment=environment,
                )  # fmt: skip
                if out:
                    write_whole(out / "all.json", as_json(summary))
    if out:
        write_whole(out / "all.json", as_json(summary))
    if not any("accuracy" in result for row in rows for result in row["results"].values()):
        raise UserError("; ".join(reason for row in rows for reason in failures(row)))
    if out:
        write_whole(out / "table.md", markdown(summary).encode())
        draw_accuracies(rows, protocols, f"Accuracy on {Path(sources[-1].name).name}", out / "accuracy.png")
        shown = "knn" if "knn" in protocols else protocols[0]
        draw_speeds(rows, shown, PROTOCOLS[shown], out / "accuracy_over_throughput.png")
    return summary


def untrained(like: Contender, seed: int) -> BackboneEncoder:
    """The architecture of the encoder `like` with initial weights. Raises UserError where it is not one of dinolab's."""
    name, trained, _ = open_encoder(like, None)
    backbone = getattr(trained, "backbone", None)
    if backbone is None:
        raise UserError(f"{UNTRAINED}: takes the architecture of a run; dinolab cannot build that of {name} anew")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = make_backbone(backbone.cfg, backbone.image_size, pixels=backbone.pixels)
    return BackboneEncoder(fresh, {"untrained": name, "seed": seed}).requires_grad_(False).eval()


def run_one(
    protocol: str, encoder: Any, sources: list[Source], folder: Path | None, key: str, **options: Any
) -> dict[str, Any]:
    """What the summary tells of one result, or of its failure."""
    try:
        result = evaluate(protocol, encoder, sources[0], sources[1] if sources[1:] else None, folder, **options)
    except (UserError, RuntimeError) as error:
        log.warning("%s, %s: %s", options["name"], protocol, reason(error))
        return {"failure": reason(error)}
    return {fact: result[fact] for fact in FACTS if fact in result} | {"folder": folder and str(folder), "key": key}


def fingerprint(encoder: Any, sources: list[Source], settings: tuple[Any, ...]) -> str:
    """Hash of everything that a result depends on: weights, images, labels, and settings."""
    labels = [zlib.crc32(source.labels.tobytes()) for source in sources if source.labels is not None]
    classes = [source.classes for source in sources]
    text = repr((FORMAT, settings, labels, classes))
    keys = [kept_features.key(encoder, source, text) for source in sources]
    return hashlib.blake2b("".join(keys).encode(), digest_size=20).hexdigest()


def read_results(file: Path) -> dict[str, dict[str, Any]]:
    """Results of an earlier call by key, where their files are still there."""
    try:
        rows = json.loads(file.read_text())["encoders"]
        results = [result for row in rows for result in row["results"].values() if "key" in result]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return {result["key"]: result for result in results if (Path(result["folder"]) / "result.json").is_file()}


def as_json(summary: dict[str, Any]) -> bytes:
    return (json.dumps(summary, indent=2, default=str) + "\n").encode()


def names(encoders: Sequence[Contender]) -> list[str]:
    """What they were given as; of encoders themselves their class, numbered where there are several of it."""
    plain = [type(one).__name__ if isinstance(one, nn.Module) else str(one) for one in encoders]
    return [name if plain.count(name) == 1 else f"{name} {plain[: n + 1].count(name)}" for n, name in enumerate(plain)]


def labels(encoders: list[str]) -> list[str]:
    """Short names that tell them apart: a path's last part, or as much of it as it takes."""
    found = []
    for one in encoders:
        parts = Path(one).parts if Path(one).exists() else (one,)
        others = [Path(other).parts for other in encoders if other != one]
        length = next((n for n in range(1, len(parts)) if all(o[-n:] != parts[-n:] for o in others)), len(parts))
        found.append("/".join(parts[-length:]))
    return found
