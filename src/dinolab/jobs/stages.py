"""The stages of the job: what each makes, of what, and how it goes on where it was stopped."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dinolab.errors import UserError
from dinolab.files import write_whole
from dinolab.jobs.job import Job
from dinolab.jobs.table import write_table
from dinolab.machine import environment
from dinolab.models.encoder import BackboneEncoder
from dinolab.parallel import choose_device
from dinolab.weights.load import load, save_encoder

PROTOCOLS = ("linear", "knn", "logreg")
TITLE = "Human Action Recognition: DINOv2"


class Stage(NamedTuple):
    work: Callable[[Job], None]
    products: tuple[str, ...]  # files in the job's folder
    needs: tuple[str, ...] = ()  # stages without which it cannot be done
    after: tuple[str, ...] = ()  # stages whose results it takes in: done anew, they make it out of date
    words: tuple[str, ...] = ()  # fields of the job that do so, too
    packages: tuple[str, ...] = ()


def train_network(job: Job) -> None:
    from dinolab.runs.train import train

    train(job.config(job.out))


def train_baselines(job: Job) -> None:
    """DINO with the same options, and the untrained network with labels, as many images passing through it."""
    from dinolab.evals.compare import untrained
    from dinolab.runs.train import train
    from dinolab.training.phases import Phase

    train(job.config(job.dino, "method=dino"))
    cfg, images = job.config(job.out), job.split.facts["train"]["images"]
    if not (job.untrained / "model.json").is_file():
        fresh = untrained(job.out, cfg.seed)
        job.untrained.mkdir(parents=True, exist_ok=True)
        save_encoder(fresh.backbone, job.untrained, fresh.info)
    passes = Phase(cfg, images).total * cfg.optim.batch_size
    finetune(job, job.untrained, max(1, round(passes / images)), "supervised")


def evaluate(job: Job) -> None:
    """Encoders side by side, the fine-tuned run, and predictions for images without labels; whatever is there is kept."""
    from dinolab.evals.compare import compare
    from dinolab.evals.evaluate import evaluate as evaluate_one

    against = [str(folder) for folder in (job.dino, job.untrained) if (folder / "model.json").is_file()]
    against += ["pixels", *([job.official] if job.official else [])]
    sources = str(job.split.train), str(job.split.test)
    compare(
        str(job.out), against, *sources, job.out / "eval" / "all", protocols=PROTOCOLS, environment=environment(),
        **job.features(),
    )  # fmt: skip
    finetune(job, job.out, job.scale.finetune_epochs, "finetuned")
    submission = job.out / "submission"
    if job.split.unlabelled and not is_of(submission, job.out):
        evaluate_one("linear", job.out, sources[0], str(job.split.unlabelled), submission, **job.features())
    write_table(job.out)


def finetune(job: Job, encoder: Path, epochs: int, name: str) -> None:
    """Into eval/NAME, unless it is there and of this encoder."""
    from dinolab.evals.evaluate import evaluate as evaluate_one

    folder = job.out / "eval" / name
    if not is_of(folder, encoder):
        train, test = str(job.split.train), str(job.split.test)
        called = None if encoder == job.out else name  # the supervised network began as nobody's
        evaluate_one(
            "finetune", encoder, train, test, folder, epochs=epochs, name=called, environment=environment(),
            **job.features(),
        )  # fmt: skip


def is_of(evaluation: Path, encoder: Path) -> bool:
    """Whether the evaluation is complete, and of the encoder that is there now."""
    result = evaluation / "result.json"  # the last file of an evaluation that is written
    if not result.is_file():
        return False
    info: dict = json.loads((encoder / "model.json").read_bytes())["info"]
    return json.loads(result.read_bytes())["encoder"].get("info") == info


def measure_speed(job: Job) -> None:
    """Each benchmark in a process of its own, where the training has left no memory behind; those that are there are kept."""
    words = ("--device", str(choose_device(job.config(job.out).run.device)))
    bench(job, "attention", [*job.scale.attention, *words])
    bench(job, "throughput", [*job.scale.throughput, *words])
    if job.scale.step is not None:
        bench(job, "step", [f"har_{job.scale_name}", *job.options, *job.scale.step])


def bench(job: Job, what: str, words: Sequence[str]) -> None:
    file = job.out / "speed" / f"{what}.json"
    if file.is_file():
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    command = [sys.executable, "-m", "dinolab", "bench", what, *words, "--out", str(file.parent)]
    try:
        status = subprocess.run(command).returncode
    except KeyboardInterrupt:
        file.unlink(missing_ok=True)  # it would hold the rows so far
        raise
    if status or not file.is_file():
        raise UserError(f"dinolab bench {what} failed, see above (exit status {status})")


def make_video(job: Job) -> None:
    from dinolab.jobs.answers import classifier, clip_of
    from dinolab.visuals.action_video import action_video

    encoder = load(job.out, choose_device(job.config(job.out).run.device))
    assert isinstance(encoder, BackboneEncoder)  # as every run's
    classify, classes = classifier(job, encoder)
    photos = {} if job.clip else clip_of(job.split.test, job.scale.clip)
    clip, labels = job.clip or list(photos), list(photos.values())
    title = f"{TITLE}, {encoder.backbone.describe()}"
    action_video(encoder, classify, classes, clip, job.out / "video.mp4", title, labels=labels, progress=job.progress)


def write_report(job: Job) -> None:
    from dinolab.report import report

    write_stages(job)
    report([job.out])


def write_stages(job: Job) -> None:
    """What took how long, and what the scale leaves out, where the report looks for measurements."""
    marks = {name: job.out / "stages" / f"{name}.json" for name in STAGES if name != "report"}
    rows = [
        {"stage": name, "minutes": json.loads(file.read_bytes())["seconds"] / 60}
        for name, file in marks.items()
        if file.is_file()
    ]
    content = {
        "title": f"Stages of the job, scale {job.scale_name}; of a stage that was stopped, the time since it went on",
        "conclusion": job.scale.about,
        "rows": rows,
    }
    (job.out / "speed").mkdir(exist_ok=True)
    write_whole(job.out / "speed" / "stages.json", (json.dumps(content, indent=2) + "\n").encode())


STAGES = {
    "train": Stage(train_network, ("model.safetensors", "model.json")),
    "baselines": Stage(
        train_baselines,
        ("baselines/dino/model.json", "eval/supervised/result.json"),
        needs=("train",),
        after=("train",),
        packages=("timm",),
    ),
    "evaluate": Stage(
        evaluate,
        ("eval/all/all.json", "table.md"),
        needs=("train",),
        after=("train", "baselines"),
        words=("official",),
        packages=("timm",),
    ),
    "speed": Stage(measure_speed, ("speed/attention.json", "speed/throughput.json")),
    "video": Stage(make_video, ("video.mp4",), needs=("train",), after=("train",), words=("clip",), packages=("av",)),
    "report": Stage(
        write_report, ("report.html",), needs=("train",), after=("train", "baselines", "evaluate", "speed", "video")
    ),
}
