"""The files of runs and jobs."""

import json
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed.checkpoint as dcp

import dinolab.report.page
from dinolab.data.sources import open_source
from dinolab.evals import splits
from dinolab.evals.comparison import Comparison, Entry, read_comparison
from dinolab.evals.comparison import Row as Compared
from dinolab.evals.earlier import read_result
from dinolab.evals.result import Measured, Result
from dinolab.evals.results import write_result
from dinolab.evals.state import KeptState
from dinolab.features import cache
from dinolab.features.extract import as_feature_set
from dinolab.jobs import har_images, marks, split
from dinolab.jobs.checks import keep_settings
from dinolab.jobs.har_job import HarJob
from dinolab.jobs.stage import is_of
from dinolab.jobs.stages import STAGES, write_stages
from dinolab.recipes import load_config, load_saved_config
from dinolab.report import report
from dinolab.rundir import RunFolder
from dinolab.runs.folder import check_run, describe_run
from dinolab.weights.load import save_encoder
from fuzzing.data_kinds import make_listing
from fuzzing.kind import Kind
from fuzzing.mutate import in_gzip, in_json, in_lines, in_safetensors, in_zip, text
from fuzzing.option_kinds import INFO, network


def result_of(name: str) -> Result:
    data = {"train": "images", "test": "images", "split": "given", "train_images": 2, "test_images": 2, "classes": 2}
    settings = {"size": [16, 16], "precision": "fp32", "k": 20}
    by_class = {"cat": {"accuracy": 1.0, "images": 1}, "dog": {"accuracy": 0.0, "images": 1}}
    figures = {"accuracy": Measured(0.5, (0.1, 0.9)), "without_leaks": Measured(0.4)}
    encoder = {"name": name, "dim": 16, "patch_size": 8, "info": INFO}
    seeds = {"seed": [0, 1], "value": [0.5, 0.4], "mean": 0.45, "std": 0.05}
    return Result(
        "knn", encoder, data, settings, figures, 0, {"k = 10": 0.5}, by_class, [["a", "b"]], seeds, {"packages": {}}
    )


def make_evaluations(folder: Path) -> None:
    """An evaluation, one of another encoder, and both in a comparison."""
    for name in ("knn", "other"):
        place = folder / "eval" / name
        place.mkdir(parents=True)
        write_result(place, result_of(name if name == "other" else str(folder)))
        (place / "predictions.csv").write_text(
            "filename,label,predicted,probability\ncat/0.png,cat,cat,0.9\ndog/0.png,dog,cat,0.6\n"
        )
    rows = [
        Compared(
            name,
            name,
            {"knn": Entry(result_of(name), key="7", folder="eval/knn")},
            [16, 16],
            16,
            {"images_per_s": 9.0, "batch_size": 1, "precision": "fp32", "device": "CPU"},
        )
        for name in "ab"
    ]
    whole = Comparison(
        {"train": "images", "test": None},
        {"evaluations": ["knn"], "precision": "fp32", "seed": 0, "seeds": 1},
        None,
        rows,
    )
    (folder / "eval" / "all").mkdir()
    (folder / "eval" / "all" / "all.json").write_text(json.dumps(whole.to_json()))


def read_evaluations(folder: Path, name: str) -> None:
    (read_comparison if name.endswith("all.json") else read_result)(folder / name)


def make_run(folder: Path) -> None:
    """A run as training and evaluations would leave it, and the files that a job adds."""
    make_listing(folder)
    (folder / "listing.json.gz").rename(folder / "sources.json.gz")
    make_evaluations(folder)
    run = RunFolder(folder)
    save_encoder(network(), folder, INFO)
    words = [
        "model.dim=16",
        "model.depth=1",
        "model.heads=1",
        "model.patch_size=8",
        "views.global_size=32",
        "views.local_size=16",
    ]
    cfg = load_config(None, [*words, f"data.path={folder / 'images'}", f"run.dir={folder}"])
    source = open_source(cfg.data.path)
    describe_run(run, cfg, source, resumed=False)
    rows = [
        {"step": n, "loss": 2.5 - n / 10, "knn_top1": 0.5, "lr": 1e-4, "images_per_s": 10.0, "epoch": n / 2}
        for n in range(1, 5)
    ]
    run.metrics.write_text("\n".join(map(json.dumps, rows)))
    run.log.write_text("2026-01-31 12:00:00 ALARM: the loss is flat\n2026-01-31 12:00:00 broken image a.png: empty\n")
    dcp.save({"step": torch.tensor(6)}, checkpoint_id=run.checkpoints / "step_6", no_dist=True)
    make_job(folder, source)
    run.speed.mkdir()
    times = {"ms": 2.5, "ms_quartiles": [2.0, 3.0], "images_per_s": 400.0, "peak_memory_mb": 120.0, "rounds": 3}
    facts = {
        "model": "small/16",
        "size": 224,
        "tokens": 197,
        "batch": 1,
        "pass": "forward",
        "backend": "math",
        "times_as_fast_as_math": 1.0,
    }
    benchmarks: dict[str, dict[str, Any]] = {
        "attention": facts | times,
        "throughput": {
            "model": "small/16",
            "params_m": 21.5,
            "tokens": 197,
            "gflops": 9.2,
            "batch": 1,
            "matmul_share": 0.5,
        }
        | times,
        "step": {"variant": "as configured", "batch": 8, "times_as_fast": 1.0, "matmul_share": None} | times,
        "data": {
            "part": "decode",
            "images_per_s": 90.0,
            "images_per_s_quartiles": [80.0, 99.0],
            "images_per_core_s": 45.0,
            "core_ms": 20.0,
        },
    }
    for name, row in benchmarks.items():
        whole = {
            "benchmark": name,
            "command": f"dinolab bench {name}",
            "title": name,
            "device": "cpu",
            "rows": [row, row | {"ms": 3.5}, {"note": "out of memory"}],
        }
        (run.speed / f"{name}.json").write_text(
            json.dumps(whole | {"environment": {"packages": {"torch": "2"}}, "conclusion": "fast"})
        )
    write_stages(job_in(folder))


def make_job(folder: Path, source: Any) -> None:
    """The files of a job that `dinolab job` and the report read."""
    run = RunFolder(folder)
    run.split.parent.mkdir()
    run.stages.mkdir()
    (folder / "job.json").write_text(
        json.dumps({"job": "har", "title": "Human Action Recognition", "scale": "smoke", "options": ["seed=1"]})
    )
    split.write_side(run.split.parent / "train.csv", source)
    splits.keep(
        {
            "format": splits.FORMAT,
            "seed": 0,
            "images": len(source),
            "fingerprint": source.fingerprint(),
            "test": source.names()[:1],
        },
        [run.split.parent / "split-0.json"],
    )
    side = {"images": 2, "fingerprint": source.fingerprint()}
    facts = {
        "data": "copy",
        "split": "given",
        "seed": 0,
        "images_of_a_class": "all",
        "train": side,
        "test": side,
        "classes": ["cat", "dog"],
        "unlabelled_images": 0,
        "differences": ["a"],
    }
    run.split.write_text(json.dumps(facts))
    for name, stage in STAGES.items():
        with_ = dict.fromkeys(stage.after, "2026-01-31T12:00:00Z") | dict.fromkeys(stage.words, "")
        (run.stages / f"{name}.json").write_text(
            json.dumps({"finished": "2026-01-31T12:00:00Z", "seconds": 3.5, "with": with_})
        )


def job_in(folder: Path) -> HarJob:
    sheet = folder / "data" / "train.csv"
    return HarJob(folder, split.Split(sheet, sheet, None, {}), False, "smoke")


def write_report(folder: Path, name: str) -> None:
    """The report, in which a section that stumbles over a file counts as a failure, although the page only leaves it out."""
    dinolab.report.page.left_out_if_damaged = lambda section, page: nullcontext()
    report([folder], photos=False)


def resume_run(folder: Path, name: str) -> None:
    run, cfg = RunFolder(folder), load_saved_config(folder / "config.yaml")
    source = open_source(cfg.data.path)
    check_run(run, cfg, resume=True)
    content = {file: file.read_bytes() for file in (run.config, run.environment)}
    try:
        describe_run(run, cfg, source, resumed=True)
    finally:
        for file, before in content.items():
            file.write_bytes(before)


def continue_job(folder: Path, name: str) -> None:
    """What `dinolab job` reads before and between its stages."""
    job, source = job_in(folder), open_source(str(folder / "images"))
    for stage in STAGES:
        marks.is_done(job, STAGES, stage)
        marks.in_words(marks.read_json(marks.mark_of(job, stage))["seconds"])
    write_stages(job)
    is_of(folder / "eval" / "knn", job.folder)
    splits.read(folder / "data" / "split-0.json", source)
    keep_settings(folder, {}, {"scale": "smoke", "options": ["seed=1"]})
    sheet = folder / "data" / "train.csv"
    split.write_side(sheet, source)
    har_images.open_sheet(sheet, True, [])


def make_caches(folder: Path) -> None:
    kept = KeptState(folder / "state_0.pt", "a", trained())
    kept.saved = -math.inf  # the state is written at once
    kept.save_now_and_then(3)
    assert kept.restore() == 3
    tensors = {
        "block00": torch.zeros(2, 4),
        "patches": torch.zeros(2, 4),
        "kept": torch.arange(2),
        "digests": torch.zeros(2, 20, dtype=torch.uint8),
    }
    cache.write(folder / "a.safetensors", tensors, {"asked": "[1, true]", "broken": "[]"})


def trained() -> dict[str, Any]:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {"layer": layer, "optimizer": optimizer}


def read_caches(folder: Path, name: str) -> None:
    """The kept state of a fine-tuning, with which a step is then taken; and kept features."""
    if name == "state_0.pt":
        parts = trained()
        KeptState(folder / name, "a", parts).restore()
        parts["optimizer"].step()
    elif found := cache.read(folder / name):
        json.loads(found[1]["asked"])
        as_feature_set(SimpleNamespace(labels=None, name="a"), *found, 1, True)  # type: ignore[arg-type]


RUN_FILES = {
    "config.yaml": text, "environment.json": in_json, "job.json": in_json, "metrics.jsonl": in_lines, "log.txt": text,
    "model.json": in_json, "sources.json.gz": in_gzip, "eval/*/*.json": in_json, "eval/*/*.csv": text, "speed/*.json": in_json,
    "data/split.json": in_json, "stages/*.json": in_json,
}  # fmt: skip
JOB_FILES = {
    "stages/*.json": in_json, "data/*.json": in_json, "data/*.csv": text, "job.json": in_json, "eval/knn/result.json": in_json,
    "model.json": in_json,
}  # fmt: skip
KINDS = {
    "evaluation": Kind(make_evaluations, {"eval/*/*.json": in_json}, read_evaluations),
    "report": Kind(make_run, RUN_FILES, write_report),
    "resume": Kind(make_run, {"config.yaml": text, "environment.json": in_json}, resume_run),
    "job": Kind(make_run, JOB_FILES, continue_job),
    "caches": Kind(make_caches, {"*.pt": in_zip, "*.safetensors": in_safetensors}, read_caches),
}
