"""The stages of a job that goes several ways: each way, and what is made from all of them."""

import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dinolab.data.sources import open_source
from dinolab.errors import UserError, say
from dinolab.evals.comparison import read_comparison
from dinolab.features.inputs import open_encoder
from dinolab.jobs import stage
from dinolab.jobs.budget import LEAST_EPOCHS, divide, epochs_in, finetuning_pace, fit, in_minutes, training_pace
from dinolab.jobs.curves import draw_curves, measure_curves
from dinolab.jobs.figures import WayFigures, read_figures, speed_of, write_figures
from dinolab.jobs.stage import Stage, Stages
from dinolab.jobs.ways import (
    FINETUNING,
    GIVEN,
    LABELS,
    NEAREST,
    PRETRAINED,
    REGRESSION,
    WAYS,
    without_labels,
)
from dinolab.jobs.ways_job import WaysJob, uses_untrained
from dinolab.machine import environment
from dinolab.models.encoder import BackboneEncoder
from dinolab.rundir import LAYER, NETWORK, RESULT
from dinolab.runs.build import build_method
from dinolab.schemas import STAGE, read_object
from dinolab.weights.load import save_encoder

FRAMES = 30  # photos in the video, about
CURVES = 1.3  # an evaluation with its learning curve, over one without
OF_A_RUN = ("config.yaml", "environment.json", "metrics.jsonl", "log.txt", "model.safetensors", "model.json")


def evaluate(job: WaysJob, names: list[str]) -> None:
    """Evaluate the networks of these ways side by side; what was evaluated before is kept."""
    from dinolab.evals.compare import compare

    first, *others = (job.encoder(name) for name in names)
    compare(
        first, others, str(job.split.train), str(job.split.test), job.comparison.parent,
        evaluations=[REGRESSION, NEAREST], environment=environment(), **job.evaluating(),
    )  # fmt: skip


def go_given(job: WaysJob, name: str) -> None:
    """A way whose network is there."""
    if uses_untrained(job.ways) and not job.untrained.card.is_file():
        cfg = job.usual()
        backbone = build_method(cfg, torch.device("cpu")).product
        job.untrained.path.mkdir(parents=True, exist_ok=True)
        save_encoder(backbone, job.untrained.path, {"untrained": "scratch", "seed": cfg.seed})
    names = without_labels(job.going)
    evaluate(job, names[: names.index(name) + 1])


def plan_ways(job: WaysJob) -> None:
    """Measure the pace of each way, divide the time, and print what will be done."""
    began = time.perf_counter()
    train, test = str(job.split.train), str(job.split.test)
    evaluations = {}
    for name in job.going[1:]:
        way = WAYS[name]
        if way.kind != LABELS:
            evaluations[name] = evaluation_seconds(job, name)
        if way.kind == PRETRAINED:
            job.keep_pace(name, training_pace(job.config(name)))
        elif way.kind == LABELS and not way.best:
            encoder = open_encoder(job.untrained.path)[1]
            job.keep_pace(name, finetuning_pace(encoder, train, test, FINETUNING, job.finetuning(encoder)))
    trained = [name for name in job.going if WAYS[name].kind != GIVEN]
    paces = {name: job.pace(name) for name in trained if not WAYS[name].best}
    job.decide(evaluations=evaluations)
    left = job.time_left(began) - sum(seconds for name, seconds in evaluations.items() if name not in trained)
    parts, left_out = fit(
        left, {name: WAYS[name].share for name in trained}, paces, {name: job.evaluation_of(name) for name in trained}
    )
    job.leave_out(left_out)
    say(f"plan: {in_minutes(job.budget)} in all, {in_minutes(max(0.0, left))} of it for these ways")
    for name, part in parts.items():
        length = f"about {epochs_in(part, paces[name]):g} epochs" if name in paces else "as many epochs as fit"
        say(f"  {name}: {WAYS[name].title}; {in_minutes(part + job.evaluation_of(name))}, {length}")
    for name, why in left_out.items():
        say(f"  {name}: left out: {why}")


def evaluation_seconds(job: WaysJob, name: str) -> float:
    """A forecast for the evaluation of a way: that of the first one, times the factor by which its network is slower or wider.

    Features take longer by the first of these factors, and what is fitted to them by the second; the larger one is taken.
    """
    took = read_object(job.folder.stages / f"{job.first}.json", STAGE).get("seconds", 0.0)
    first = read_comparison(job.comparison).encoders[0]
    if WAYS[name].kind == PRETRAINED:
        network: Any = BackboneEncoder(build_method(job.config(name), torch.device("cpu")).product)
    else:
        network = open_encoder(job.encoder(name))[1]
    slower = (first.throughput or {"images_per_s": 0.0})["images_per_s"] / speed_of(job, network)
    return CURVES * float(took) * max(slower, network.dim / (first.dim or network.dim))


def length_of(job: WaysJob, name: str, began: float) -> float:
    """Epochs of a way: decided when it begins, from the time that is left by then, and kept. 0 where not one fits any more."""
    known = job.decided().get("epochs", {})
    if name not in known:
        waiting = [one for one in job.going if WAYS[one].kind != GIVEN and one not in known]
        part = divide(job.time_left(began), {one: WAYS[one].share for one in waiting})[name] - job.evaluation_of(name)
        epochs = epochs_in(part, job.pace(name))
        if epochs < LEAST_EPOCHS:
            why = f"{in_minutes(part)} were left for it, and an epoch takes {in_minutes(job.pace(name).epoch)}"
            job.leave_out({name: why})
            say(f"  {name}: left out: {why}")
            return 0.0
        known = known | {name: epochs}
        job.decide(epochs=known)
    return float(known[name])


def go_pretrained(job: WaysJob, name: str) -> None:
    from dinolab.runs.train import train

    if not (epochs := length_of(job, name, time.perf_counter())):
        return
    train(job.config(name, epochs))
    done = [one for one in without_labels(job.going) if WAYS[one].kind == GIVEN or job.run(one).card.is_file()]
    evaluate(job, done)


def go_with_labels(job: WaysJob, name: str) -> None:
    """Fine-tune the best network of the ways without labels, or train the untrained one."""
    began = time.perf_counter()
    start = job.encoder(best_start(job)) if WAYS[name].best else str(job.untrained.path)
    encoder = open_encoder(start)[1]
    train, test = str(job.split.train), str(job.split.test)
    if name not in job.decided().get("paces", {}):
        job.keep_pace(name, finetuning_pace(encoder, train, test, FINETUNING, job.finetuning(encoder)))
    if not (epochs := int(length_of(job, name, began))):
        return
    job.decide(starts=job.decided().get("starts", {}) | {name: start})
    if not (job.result(name) / RESULT).is_file():
        from dinolab.evals.evaluate import evaluate as evaluate_one

        evaluate_one(
            FINETUNING, encoder, train, test, job.result(name), epochs=epochs, called=name, environment=environment(),
            **job.finetuning(encoder),
        )  # fmt: skip


def best_start(job: WaysJob) -> str:
    """The way without labels whose network is the best so far."""
    rows = {row.encoder: row for row in read_comparison(job.comparison).encoders}
    found = {}
    for name in without_labels(job.going):
        entry = rows[job.encoder(name)].results.get(REGRESSION) if job.encoder(name) in rows else None
        if entry and entry.result and entry.result.main:
            found[name] = entry.result.main.value
    if not found:
        raise UserError(f"{job.comparison}: no network to fine-tune was evaluated")
    return max(found, key=lambda name: found[name])


def compare_labels(job: WaysJob) -> None:
    """Learning curves of the networks that are trained without labels."""
    names = without_labels(job.going)
    measure_curves(job, names)
    draw_curves(job)


def recommend(job: WaysJob) -> None:
    """The table, the recommendation, and what it takes to use the network that is recommended."""
    rows = read_figures(job)
    taken = write_figures(job, rows)
    keep_network(job, taken)
    if not (job.out / LAYER).is_file():
        say(f"  {taken.name}: a fine-tuned network that is not one of dinolab's cannot be saved, nor its classifier")
    elif job.split.unlabelled:
        from dinolab.evals.predict import predict

        source = open_source(str(job.split.unlabelled))
        how = {key: value for key, value in job.features().items() if key != "precision"}
        predict(job.out / LAYER, source, job.out / "predictions.csv", **how)


def keep_network(job: WaysJob, taken: WayFigures) -> None:
    """Copy the recommended network and its layer to the job's folder, which is then that of a run."""
    for name in (*OF_A_RUN, LAYER):
        (job.out / name).unlink(missing_ok=True)
    if WAYS[taken.name].kind == PRETRAINED:
        copy_files(job.run(taken.name).path, job.out, OF_A_RUN)
    elif (taken.folder / NETWORK).is_dir():
        copy_files(taken.folder / NETWORK, job.out, OF_A_RUN)
    if (taken.folder / LAYER).is_file():
        copy_files(taken.folder, job.out, (LAYER,))


def copy_files(source: Path, to: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, to / name)


def make_video(job: WaysJob) -> None:
    """The action video of the recommended network, or of the best one that can be opened."""
    if find_spec("av") is None:
        say("  left out: needs PyAV: pip install 'dinolab[video]'")
        return
    opened = job.out if job.folder.weights.is_file() else job.encoder(best_start(job))
    classes = len(job.split.facts["classes"])
    stage.make_video(job, opened, str(job.decided()["title"]), each=max(1, FRAMES // classes))


def write_report(job: WaysJob) -> None:
    from dinolab.report import report

    stage.write_stages(job, [name for name in stages_of(job) if name != "report"], "Stages of the job", "")
    report([job.out])


def stages_of(job: WaysJob) -> Stages:
    """The stages in their order; those of ways that are left out are not done."""
    stages: dict[str, Stage] = {}
    for name in job.ways:
        stages[name] = way_stage(job, name, tuple(stages))
        if name == job.first:
            stages["plan"] = Stage(plan_ways, lambda job: (), after=(name,))
    ways = tuple(stages)
    stages["curves"] = Stage(compare_labels, lambda job: (job.curves, job.folder.learning_curves), after=ways)
    stages["recommend"] = Stage(recommend, lambda job: (job.folder.figures, job.table), after=(*ways, "curves"))
    stages["video"] = Stage(make_video, lambda job: (), after=("recommend",))
    stages["report"] = Stage(write_report, lambda job: (job.folder.report,), after=("recommend", "video"))
    return stages


def way_stage(job: WaysJob, name: str, before: tuple[str, ...]) -> Stage:
    """The stage of a way; `before` are the stages before it."""
    way = WAYS[name]
    if way.kind == GIVEN:
        return Stage(lambda job: go_given(job, name), lambda job: (job.comparison,))
    if way.kind == PRETRAINED:
        return Stage(
            lambda job: go_pretrained(job, name),
            lambda job: (job.run(name).card,),
            after=("plan",) if way.recipe else (),
        )
    return Stage(
        lambda job: go_with_labels(job, name),
        lambda job: (job.result(name) / RESULT,),
        after=before if way.best else ("plan",),
    )
