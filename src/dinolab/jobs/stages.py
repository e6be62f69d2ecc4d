"""The stages of the job on Human Action Recognition: what each makes, what it needs, and how it continues where it was stopped."""

import subprocess
import sys
from collections.abc import Sequence

import torch

from dinolab.errors import UserError
from dinolab.jobs import plan, stage
from dinolab.jobs.har_job import HarJob
from dinolab.jobs.stage import Stage, finetune, is_of
from dinolab.jobs.table import write_table
from dinolab.machine import environment
from dinolab.parallel import choose_device
from dinolab.rundir import RESULT
from dinolab.weights.load import save_encoder


def train_network(job: HarJob) -> None:
    from dinolab.runs.train import train

    train(job.config(job.out))


def train_baselines(job: HarJob) -> None:
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


def evaluate_encoders(job: HarJob) -> None:
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


def measure_speed(job: HarJob) -> None:
    """Run each benchmark in its own process, in which no training has left memory behind; finished ones are kept."""
    device = f"device={choose_device(job.config(job.out).run.device)}"
    bench(job, "attention", [*job.scale.attention, device])
    bench(job, "throughput", [*job.scale.throughput, device])
    if job.scale.step is not None:
        bench(job, "step", [f"har_{job.scale_name}", *job.options, *job.scale.step])


def bench(job: HarJob, what: str, words: Sequence[str]) -> None:
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


def make_video(job: HarJob) -> None:
    stage.make_video(job, job.out, f"{plan.TITLE}: {plan.METHOD_TITLE}", job.clip, job.scale.clip)


def write_report(job: HarJob) -> None:
    from dinolab.report import report

    write_stages(job)
    report([job.out])


def write_stages(job: HarJob) -> None:
    """Write how long each stage took, and what the scale leaves out."""
    title = f"Stages of the job, scale {job.scale_name}"
    stage.write_stages(job, [name for name in STAGES if name != "report"], title, job.scale.about)


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
