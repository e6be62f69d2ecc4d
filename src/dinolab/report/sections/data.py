"""The data: what was trained on which images, a sample of them, and their classes."""

from typing import Any

import numpy as np
import torch

from dinolab.config import as_word
from dinolab.data.sources import subset
from dinolab.data.types import Source
from dinolab.models.backbone import make_backbone
from dinolab.options import Config
from dinolab.report.names import method
from dinolab.report.pictures import Grid, photo
from dinolab.report.run import Json, Run
from dinolab.report.sections.section import Page, View
from dinolab.report.tables import Cell, Table, side_by_side
from dinolab.visuals.curves import points

SAMPLE = 24  # images


def build(page: Page) -> dict[str, Any]:
    parts = [part(view) for view in page.views]
    facts = [[run.environment.get(key) for key in ("data", "images", "names_crc32")] for run in page.runs]
    if len(parts) == 2 and facts[0] == facts[1] and parts[0]["sample"] and all(facts[0]):
        parts[1] |= {"sample": None, "classes": None, "missing": f"they are those of {page.views[0].label}"}
    facts_of = [trained_on(view.run, view.images.train if view.images else None) for view in page.views]
    return {"facts_of": side_by_side(facts_of), "parts": parts}


def part(view: View) -> dict[str, Any]:
    source = view.images.train if view.images else None
    shown = sample(source) if source is not None and not view.no_pictures else None
    return {"label": view.label, "sample": shown, "classes": classes(source), "missing": view.no_pictures}


def sample(source: Source) -> Grid:
    drawn = subset(source, SAMPLE, seed=0)
    names = [""] * len(drawn) if drawn.labels is None else [drawn.classes[n] for n in drawn.labels]
    found = [photo(path, name or "train image", name) for path, name in zip(drawn.paths, names)]
    row = [picture for picture in found if picture]
    return Grid("A sample", f"{len(row)} of {len(source):,} train images, drawn at random.", [row], flows=True)


def classes(source: Source | None) -> Table | None:
    """Images of each class; None without labels."""
    if source is None or source.labels is None:
        return None
    counts = np.bincount(source.labels, minlength=len(source.classes)).tolist()
    rows = [[Cell(name), Cell(f"{count:,}", count)] for name, count in zip(source.classes, counts)]
    return Table("Classes", "", ["class", "images"], rows) if rows else None


def trained_on(run: Run, source: Source | None) -> dict[str, str]:
    """Method, network and images: counts, places and checksums."""
    facts, info, cfg = {}, run.card.get("info", {}), run.config
    if cfg:
        facts["method"] = method(cfg)
        facts["network"] = network(cfg)
    if run.step is not None:
        steps = f"{run.step:,}" + (f" of {cfg.optim.batch_size:,} images" if cfg else "")
        epochs = points(run.metrics, "epoch")[1]
        facts["steps"] = steps + (f", {epochs[-1]:.4g} epochs" if epochs else "")
    count = run.environment.get("images", info.get("images"))
    if count is not None:
        facts["train images"] = f"{count:,}"
    if source is not None and source.classes:
        facts["classes (not used by the training)"] = f"{len(source.classes):,}"
    facts["images from"] = str(run.environment.get("data", cfg.data.path if cfg else ""))
    if "names_crc32" in run.environment:
        facts["checksum of their names (CRC-32)"] = f"{run.environment['names_crc32']:08x}"
    facts |= curated(run.environment.get("curation", [])) | split_of(run.split)
    if cfg and cfg.eval.train:
        facts["k-NN while training"] = f"reference images: {cfg.eval.train}; test images: {cfg.eval.test}"
    facts |= {f"{name} (SHA-256)": digest for name, digest in run.hashes.items()}
    return {key: value for key, value in facts.items() if value}


def curated(chain: list[Json]) -> dict[str, str]:
    """How a curated set was made: a row for each stage, with the SHA-256 of its manifest; empty for other sources."""
    facts = {}
    for one in chain:
        encoder, stage = one.get("encoder"), one.get("stage", "embed")
        words = [
            f"{key}={as_word(value)}" for key, value in {**one.get("options", {}), **one.get("figures", {})}.items()
        ]
        if encoder:
            words = [f"encoder={encoder.get('name')} (SHA-256 {encoder.get('sha256')})", one.get("preprocessing", "")]
        facts[f"curated by: {stage}"] = ", ".join(words) + f"; manifest {one.get('sha256', '')}"
    return facts


def split_of(split: Json) -> dict[str, str]:
    """How a job divided its images; empty for a file that is not a job's."""
    try:
        most, test = split["images_of_a_class"], split["test"]
        at_most = "; at most {train:,} train images and {test:,} test images of each class"
        return {
            "split (data/split.json)": split["split"] + ("" if most == "all" else at_most.format(**most)),
            "test images": f"{test['images']:,}",
            "their checksum (names and labels, BLAKE2b)": str(test["fingerprint"]),
            "unlabelled images": f"{split['unlabelled_images']:,}",
            "downloaded data": str(split["data"]),
            "differences from the published data": "; ".join(split["differences"]) or "none was found",
        }
    except (LookupError, TypeError, ValueError):
        return {}


def network(cfg: Config) -> str:
    with torch.device("meta"):
        return make_backbone(cfg.model, cfg.views.global_size).describe()
