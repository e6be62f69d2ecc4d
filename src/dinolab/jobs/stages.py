"""The stages of the job: what each makes, what it needs, and how it continues where it was stopped."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dinolab.errors import UserError
from dinolab.files import write_whole
from dinolab.jobs import plan
from dinolab.jobs.job import Job
from dinolab.jobs.table import write_table
from dinolab.machine import environment
from dinolab.models.encoder import BackboneEncoder
from dinolab.parallel import choose_device
from dinolab.rundir import CARD, RESULT, STAGE, RunFolder, read_object
from dinolab.weights.load import load, save_encoder


class Stage(NamedTuple):
    """A part of the job that is done as a whole or continued."""

    work: Callable[[Job], None]
    products: Callable[[Job], tuple[Path, ...]]
    needs: tuple[str, ...] = ()  # stages without which it cannot be done
    after: tuple[str, ...] = ()  # stages whose results it uses: when they are repeated, so is this one
    words: tuple[str, ...] = ()  # fields of the job that it uses, with the same effect
    packages: tuple[str, ...] = ()


def train_network(job: Job) -> None:
    from dinolab.runs.train import train

    train(job.config(job.out))


def train_baselines(job: Job) -> None:
    """Train the baseline method with the same options, and the untrained network with labels on as many images."""
    from dinolab.evals.contenders import untrained
    from dinolab.runs.train import train
    from dinolab.training.phases import Phase

    train(job.config(job.baseline.path, plan.BASELINE))
    cfg, images = job.config(job.out), job.split.facts["train"]["images"]
    if not job.untrained.card.is_file():
        fresh = untrained(job.out, cfg.seed)
        job.untrained.path.mkdir(parents=True, exist_ok=True)
        save_encoder(fresh.backbone, job.untrained.path, fresh.info)
    passes = Phase(cfg, images).total * cfg.optim.batch_size
    finetune(job, job.untrained, job.supervised, max(1, round(passes / images)), job.supervised.name)


def evaluate_encoders(job: Job) -> None:
    """Compare the encoders, fine-tune the run's network, and predict images without labels; finished results are kept."""
    from dinolab.evals.compare import compare
    from dinolab.evals.evaluate import evaluate

    against = [str(folder.path) for folder in (job.baseline, job.untrained) if folder.card.is_file()]
    against += ["pixels", *([job.official] if job.official else [])]
    train, test = str(job.split.train), str(job.split.test)
    compare(
        str(job.out), against, train, test, job.comparison.parent, evaluations=plan.EVALUATIONS, environment=environment(),
        **job.features(),
    )  # fmt: skip
    finetune(job, job.folder, job.finetuned, job.scale.finetune_epochs)
    if job.split.unlabelled and not is_of(job.submission, job.folder):
        evaluate(plan.SUBMISSION, job.out, train, str(job.split.unlabelled), job.submission, **job.features())
    write_table(job)


def finetune(job: Job, encoder: RunFolder, out: Path, epochs: int, called: str | None = None) -> None:
    """Fine-tune an encoder, unless its result is there. `called` is the name that the result gives to the encoder."""
    from dinolab.evals.evaluate import evaluate

    if not is_of(out, encoder):
        evaluate(
            plan.FINETUNING, encoder.path, str(job.split.train), str(job.split.test), out, epochs=epochs, called=called,
            environment=environment(), **job.features(),
        )  # fmt: skip


def is_of(evaluation: Path, encoder: RunFolder) -> bool:
    """Whether the evaluation is complete, and of the encoder that is there now."""
    result = evaluation / RESULT  # the last file of an evaluation that is written
    if not result.is_file():
        return False
    found = read_object(result, {"encoder": {}}).get("encoder", {})
    return found.get("info") == read_object(encoder.card, CARD).get("info")


def measure_speed(job: Job) -> None:
    """Run each benchmark in its own process, in which no training has left memory behind; finished ones are kept."""
    device = f"device={choose_device(job.config(job.out).run.device)}"
    bench(job, "attention", [*job.scale.attention, device])
    bench(job, "throughput", [*job.scale.throughput, device])
    if job.scale.step is not None:
        bench(job, "step", [f"har_{job.scale_name}", *job.options, *job.scale.step])


def bench(job: Job, what: str, words: Sequence[str]) -> None:
    file = job.folder.speed / f"{what}.json"
    if file.is_file():
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    command = [sys.executable, "-m", "dinolab", "bench", what, *words, f"out={file.parent}"]
    try:
        status = subprocess.run(command).returncode
    except KeyboardInterrupt:
        file.unlink(missing_ok=True)  # it would hold only the rows so far
        raise
    if status or not file.is_file():
        raise UserError(f"dinolab bench {what} failed, see above (exit status {status})")


def make_video(job: Job) -> None:
    from dinolab.jobs.classifier import classifier, clip_of
    from dinolab.visuals.action_video import action_video

    encoder = load(job.out, choose_device(job.config(job.out).run.device))
    assert isinstance(encoder, BackboneEncoder)  # as every run's
    classify, classes = classifier(job, encoder)
    photos = {} if job.clip else clip_of(job.split.test, job.scale.clip)
    clip, labels = job.clip or list(photos), list(photos.values())
    title = f"{plan.TITLE}: {plan.METHOD_TITLE}, {encoder.backbone.describe()}"
    action_video(encoder, classify, classes, clip, job.folder.video, title, labels=labels, progress=job.progress)


def write_report(job: Job) -> None:
    from dinolab.report import report

    write_stages(job)
    report([job.out])


def write_stages(job: Job) -> None:
    """Write how long each stage took, and what the scale leaves out, among the benchmarks that the report shows."""
    marks = {name: job.folder.stages / f"{name}.json" for name in STAGES if name != "report"}
    rows = [
        {"stage": name, "minutes": read_object(file, STAGE).get("seconds", 0) / 60}
        for name, file in marks.items()
        if file.is_file()
    ]
    content = {
        "title": f"Stages of the job, scale {job.scale_name}; for a stage that was stopped, the time since it continued",
        "conclusion": job.scale.about,
        "rows": rows,
    }
    job.folder.speed.mkdir(exist_ok=True)
    write_whole(job.folder.speed / "stages.json", (json.dumps(content, indent=2) + "\n").encode())


STAGES = {
    "train": Stage(train_network, lambda job: (job.folder.weights, job.folder.card)),
    "baselines": Stage(
        train_baselines,
        lambda job: (job.baseline.card, job.supervised / RESULT),
        needs=("train",),
        after=("train",),
        packages=("timm",),
    ),
    "evaluate": Stage(
        evaluate_encoders,
        lambda job: (job.comparison, job.table),
        needs=("train",),
        after=("train", "baselines"),
        words=("official",),
        packages=("timm",),
    ),
    "speed": Stage(
        measure_speed, lambda job: (job.folder.speed / "attention.json", job.folder.speed / "throughput.json")
    ),
    "video": Stage(
        make_video,
        lambda job: (job.folder.video,),
        needs=("train",),
        after=("train",),
        words=("clip",),
        packages=("av",),
    ),
    "report": Stage(
        write_report,
        lambda job: (job.folder.report,),
        needs=("train",),
        after=("train", "baselines", "evaluate", "speed", "video"),
    ),
}
