"""One run from configuration to pictures: puts data, model, method, loop, evaluation and pictures together."""

import json
import math
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dinolab import parallel
from dinolab.config import to_dict
from dinolab.recipes import load_config, validate
from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.loader import batches, micro_batch
from dinolab.data.sources import subset
from dinolab.data.storage import describe as location
from dinolab.data.types import Source
from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.evals import knn
from dinolab.runs.folder import check_run, describe_run, hold
from dinolab.methods.base import StudentTeacher, Targets
from dinolab.models.encoder import Encoder
from dinolab.weights.initial import resized
from dinolab.weights.load import load, save_encoder
from dinolab.options import Config
from dinolab.precision import choose_precision
from dinolab.runs.build import (
    build_method,
    describe,
    monitor_sources,
    open_batches,
    open_data,
    out_of_memory,
    whole_product,
    workers,
)
from dinolab.training import checkpoint
from dinolab.training.health import Alarms, figures
from dinolab.training.log import NoLog, RunLog
from dinolab.training.loop import Interrupted, StopSignals, train_loop
from dinolab.training.optim import make_optimizer
from dinolab.training.profile import profiled
from dinolab.training.schedules import Schedules, plan_phases
from dinolab.visuals.attention import attention_sheet
from dinolab.visuals.curves import plot_metrics
from dinolab.visuals.pca import pca_sheet

WORSE = 0.02  # of k-NN accuracy, below what the given weights had: beyond the noise of the images that are asked


def train(config: Config | str | Path, *words: str, resume: bool = False) -> Path:
    """Train, or go on where an earlier call with the same run.dir stopped; returns the run's folder.

    Started by torchrun, in several processes, each call is a part of the same run.

    config: a YAML file or the name of a shipped recipe, with words, `key=value`, over it; or a whole Config.
    resume: refuse to start a new run.
    """
    if isinstance(config, Config):
        cfg = config
        validate(cfg)
    else:
        cfg = load_config(config, words)
    folder = Path(cfg.run.dir or Path("runs") / cfg.method)
    if resume and not folder.is_dir():
        raise UserError(f"{folder}: no such run to resume")
    device = parallel.choose_device(cfg.run.device)
    with parallel.processes(device), hold(folder) if parallel.rank() == 0 else nullcontext():
        carry_out(cfg, folder, device, resume)
    return folder


def carry_out(cfg: Config, folder: Path, device: torch.device, resume: bool) -> None:
    """The run itself, in a folder that no other run trains in."""
    with parallel.first_rank_first():
        places = check_run(folder, cfg, resume)
        source = open_data(cfg, folder / "sources.json.gz")
        phases = plan_phases(cfg, len(source))
        for schedules in phases:
            micro_batch(schedules.cfg, parallel.world())
        if parallel.rank() == 0:
            describe_run(folder, cfg, source, resumed=bool(places))
    if not all(parallel.collect((folder / "config.yaml").is_file())) or len(set(parallel.collect(len(places)))) > 1:
        raise UserError(
            f"{folder}: not all processes see the same files there; all machines must share run.dir's file system"
        )
    try:
        state = restore(places, phases, device) if places else begin(phases[0], source, device)
    except torch.OutOfMemoryError as caught:
        raise out_of_memory(cfg) from caught

    log = RunLog(folder, cfg, phases[-1].last, state.step) if parallel.rank() == 0 else NoLog()
    run = Run(cfg, folder, source, log, monitor_sources(cfg, source, log.say), device, phases, state)
    try:
        log.say(describe(cfg, source, phases[0], state.method, device))
        for sentence in state.said:
            log.say(sentence)
        if state.step == 0 or run.evaluation_missed():
            run.evaluate(state.step)
        profile = profiled(cfg.run.profile if parallel.rank() == 0 else 0, folder / "profile", device, log.say)
        with StopSignals() as signals, profile as run.end_of_step:
            run.go_on(signals)
        run.checkpoints.finish()
        run.export(state.step)  # again: an earlier process may have died between the last checkpoint and the product
        if parallel.rank() == 0 and cfg.run.pictures:
            draw_pictures(folder, run.cfg, run.monitor[1] if run.monitor else source)
        log.say(f"done: {folder} (model.safetensors, metrics.jsonl, pictures)")
    except (UserError, torch.OutOfMemoryError) as caught:
        error = out_of_memory(run.cfg) if isinstance(caught, torch.OutOfMemoryError) else caught
        with suppress(UserError):
            run.checkpoints.finish()
        last = checkpoint.checkpoints(folder / "checkpoints")
        reason = f"{error}. The last good checkpoint is {last[-1]}" if last else str(error)
        log.note(f"stopped: {reason}")
        raise UserError(reason) from caught
    finally:
        log.close()


@dataclass
class State:
    """What training changes, and where it stands."""

    schedules: Schedules  # of the phase that it is in
    method: StudentTeacher
    optimizer: torch.optim.Optimizer
    step: int = 0  # of the run, the next one
    broken: set[int] = field(default_factory=set)  # unreadable images met so far
    said: list[str] = field(default_factory=list)  # what the log should be told of how it came about


def begin(schedules: Schedules, source: Source, device: torch.device) -> State:
    """A new run."""
    cfg = schedules.cfg
    method = build_method(cfg, device)
    method.prepare(batches(source, cfg, 0, schedules.last, workers(cfg, device)))
    return State(schedules, method, make_optimizer(method.student, cfg.optim))


def restore(places: list[Path], phases: list[Schedules], device: torch.device) -> State:
    """The newest checkpoint that can be read; those that cannot are set aside."""
    unreadable: dict[Path, str] = {}
    for place in reversed(places):
        step = checkpoint.step_of(place)
        schedules = next(phase for phase in phases if step <= phase.last)
        method = build_method(schedules.cfg, device, fresh=False)
        state = State(schedules, method, make_optimizer(method.student, schedules.cfg.optim), step)
        try:
            state.broken = set(checkpoint.load(place, method, state.optimizer))
        except UserError as error:
            unreadable[place] = str(error)
            continue
        for bad, reason in unreadable.items():
            aside = checkpoint.set_aside(bad) if parallel.rank() == 0 else bad
            state.said.append(f"{reason}; it is now {aside.name}, and an earlier one is used")
        state.said.append(f"resumed from {place}, step {step} of {phases[-1].last}")
        return state
    raise UserError("; ".join(unreadable.values()) + "; delete them to start the run anew")


def grow(state: State, schedules: Schedules, device: torch.device) -> None:
    """Into the next phase: the same weights, positions resampled to the new size of crops; a new optimizer."""
    weights = parallel.whole(state.method.state_dict())
    cfg = schedules.cfg
    state.method = build_method(cfg, device, fresh=False, state=resized(weights, cfg.model, cfg.views.global_size))
    state.optimizer = make_optimizer(state.method.student, cfg.optim)
    state.schedules = schedules


@dataclass
class Run:
    """What the loop is handed: how this run logs, saves and evaluates."""

    whole_cfg: Config
    folder: Path
    source: Source
    log: RunLog | NoLog
    monitor: tuple[Source, Source] | None  # labelled images for k-NN: those that vote, those that are asked
    device: torch.device
    phases: list[Schedules]
    state: State
    end_of_step: Callable[[], None] = lambda: None  # the profiler's

    def __post_init__(self) -> None:
        cfg, steps = self.whole_cfg, self.phases[-1].last
        self.log_k = math.log(cfg.head.prototypes)
        self.alarms = Alarms(self.log_k, patience=max(20 * cfg.run.log_every, steps // 10))
        kept = self.phases[0].steps(cfg.run.keep_every, "run.keep_every")
        self.checkpoints = checkpoint.Checkpoints(self.folder / "checkpoints", cfg.run.keep, kept)

    @property
    def cfg(self) -> Config:
        """The options of the phase that the run is in."""
        return self.state.schedules.cfg

    def go_on(self, signals: StopSignals) -> None:
        """Train to the end of the last phase."""
        state, device, say = self.state, self.device, self.log.say
        try:
            for schedules in self.phases[self.phases.index(state.schedules) :]:
                cfg = schedules.cfg
                if schedules is not state.schedules:
                    grow(state, schedules, device)
                    say(f"crops of {cfg.views.global_size} pixels from here on, for {schedules.total:,} steps")
                train_loop(
                    state.method,
                    state.optimizer,
                    schedules,
                    open_batches(cfg, self.source, state.step, schedules.last, device, say),
                    state.step,
                    signals,
                    device=device,
                    autocast=choose_precision(cfg.run.precision, device),
                    log=self.log_step,
                    save=self.save,
                    evaluate=self.evaluate,
                    end_step=self.end_step,
                )
                state.step = schedules.last
        except Interrupted:
            self.checkpoints.finish()  # before another signal may end the process
            raise

    def log_step(self, line: dict[str, float], targets: list[Targets], broken: list[tuple[int, str]]) -> None:
        self.note_broken([image for part in parallel.collect(broken) for image in part])
        if not math.isfinite(line["loss"]):  # skipped, or the loop would have stopped
            return self.log.line({"step": line["step"], "skipped": line.get("skipped", 0)})
        line |= figures(targets)
        line |= {"kl": line["dino"] - line["teacher_entropy"], "log_k": self.log_k}
        line |= {"centre_norm": self.state.method.centre.norm().item()} if self.cfg.loss.targets == "centring" else {}
        self.log.line(line)
        for alarm in self.alarms.look(line):
            self.log.say(f"ALARM at step {line['step']}: {alarm}")

    def end_step(self) -> None:
        self.end_of_step()
        self.checkpoints.land()

    def save(self, step: int) -> None:
        state = self.state
        self.checkpoints.save(checkpoint.training_state(state.method, state.optimizer, step, sorted(state.broken)))
        self.export(step)

    def export(self, step: int) -> None:
        product = whole_product(self.state.method, self.cfg)
        if parallel.rank() == 0:
            info = {
                "method": self.cfg.method,
                "step": step,
                "images": len(self.source),
                "config": to_dict(self.whole_cfg),
            }
            save_encoder(product, self.folder, info)

    def evaluate(self, step: int) -> None:
        if not self.monitor:
            return
        product = whole_product(self.state.method, self.cfg)
        train, test = self.monitor
        size = self.cfg.eval.size or self.cfg.views.global_size
        loaders = workers(self.cfg, self.device)
        result = knn.monitor(Encoder(product), train, test, size, self.cfg.eval.k, self.device, loaders)
        if parallel.rank() > 0:
            return
        self.log.line({"step": step, **result})
        self.log.say(f"step {step}: k-NN {result['knn']:.1%} on {result['knn_test_images']} images")
        began = self.measured().get(0, 0.0)
        if self.cfg.init.weights and result["knn"] < began - WORSE:
            self.log.say(
                f"ALARM at step {step}: k-NN was {began:.1%} with the weights it started from: training has made them worse. "
                "Remedy, in a new run.dir: a lower optim.lr, a longer init.freeze_backbone and optim.warmup, ema.start nearer to 1"
            )

    def evaluation_missed(self) -> bool:
        """Whether the process died between the checkpoint of this step and its evaluation."""
        step, schedules = self.state.step, self.state.schedules
        every = schedules.steps(schedules.cfg.eval.every, "eval.every")
        due = self.monitor and every and (step % every == 0 or step == schedules.last)
        return bool(parallel.collect(due and step not in self.measured())[0])

    def measured(self) -> dict[int, float]:
        """k-NN accuracies so far, by step."""
        lines = map(json.loads, (self.folder / "metrics.jsonl").read_text().splitlines())
        return {line["step"]: line["knn"] for line in lines if "knn" in line}

    def note_broken(self, images: list[tuple[int, str]]) -> None:
        broken = self.state.broken
        for index, reason in images:
            if index in broken:
                continue
            broken.add(index)
            self.log.say(
                f"broken image {len(broken)}, replaced by another draw: {location(self.source.paths[index])}: {reason}"
            )
        if len(broken) > self.cfg.data.max_broken * len(self.source):
            raise UserError(
                f"{len(broken)} of {len(self.source)} images cannot be read, more than data.max_broken="
                f"{self.cfg.data.max_broken:g} of them; remove those named in {self.folder / 'log.txt'}, or raise the option"
            )


def draw_pictures(folder: Path, cfg: Config, source: Source, images: int = 6) -> None:
    """Curves of the run, attention and PCA maps of a few images, into the run's folder."""
    plot_metrics(folder / "metrics.jsonl", folder / "curves.png")
    size = cfg.eval.size or cfg.views.global_size
    views: list[torch.Tensor] = []
    for path in subset(source, 4 * images, seed=0).paths:
        try:
            views.append(torch.as_tensor(eval_view(read_image(path), size)))
        except BrokenImage:
            continue
    if not views:
        return
    encoder = load(folder)
    sheets: list[tuple[Callable, str]] = [(pca_sheet, "pca.png")]
    if encoder.has_class_token:
        sheets.append((attention_sheet, "attention.png"))
    for sheet, name in sheets:
        sheet(encoder, views[:images], folder / name)
