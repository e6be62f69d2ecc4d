"""One run: what the training loop is handed, to log, save and evaluate by."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dinolab import parallel
from dinolab.config import to_dict
from dinolab.data.storage import describe as location
from dinolab.data.types import Source
from dinolab.errors import UserError, masked
from dinolab.evals import knn
from dinolab.methods import METHODS
from dinolab.models.encoder import BackboneEncoder
from dinolab.options import Config
from dinolab.precision import choose_precision
from dinolab.rundir import RunFolder
from dinolab.runs.build import open_batches, whole_product, workers
from dinolab.runs.state import State, enter
from dinolab.training import checkpoint
from dinolab.training.health import Alarms
from dinolab.training.log import NoLog, RunLog
from dinolab.training.loop import Hooks, Interrupted, StopSignals, train_loop
from dinolab.training.phases import Phase
from dinolab.weights.load import save_encoder

WORSE = 0.02  # of k-NN accuracy, below that of the weights a run started from: more than chance over test images makes


@dataclass
class Run:
    """How this run logs, saves and evaluates."""

    whole_cfg: Config
    folder: RunFolder
    source: Source
    log: RunLog | NoLog
    monitor: tuple[Source, Source] | None  # labelled train and test images for k-NN
    device: torch.device
    phases: list[Phase]
    state: State
    end_of_step: Callable[[], None] = lambda: None  # the profiler's

    def __post_init__(self) -> None:
        cfg, steps = self.whole_cfg, self.phases[-1].last
        self.alarms = Alarms(METHODS[cfg.method].ALARMS, patience=max(20 * cfg.run.log_every, steps // 10))
        kept = self.phases[0].steps(cfg.run.keep_every, "run.keep_every")
        self.checkpoints = checkpoint.Checkpoints(self.folder.checkpoints, cfg.run.keep, kept)

    @property
    def cfg(self) -> Config:
        """The options of the phase that the run is in."""
        return self.state.phase.cfg

    def go_on(self, signals: StopSignals) -> None:
        """Train to the end of the last phase."""
        state, device, say = self.state, self.device, self.log.say
        hooks = Hooks(self.log_step, self.save, self.evaluate, self.end_step)
        try:
            for phase in self.phases[self.phases.index(state.phase) :]:
                cfg = phase.cfg
                if phase is not state.phase:
                    enter(state, phase, self.source, device)
                    say(f"crops of {cfg.views.global_size} pixels from here on, for {phase.total:,} steps")
                train_loop(
                    state.method,
                    state.optimizer,
                    phase,
                    open_batches(cfg, self.source, state.step, phase.last, device, say),
                    state.step,
                    signals,
                    hooks,
                    device,
                    choose_precision(cfg.run.precision, device),
                )
                state.step = phase.last
        except Interrupted:
            self.checkpoints.finish()  # before another signal may end the process
            raise

    def log_step(self, line: dict[str, float], targets: list[Any], broken: list[tuple[int, str]]) -> None:
        """`line` has the parts of the loss; the method's figures are added here, on all processes."""
        self.note_broken([image for part in parallel.collect(broken) for image in part])
        if not math.isfinite(line["loss"]):  # skipped, or the loop would have stopped
            return self.log.line({"step": line["step"], "skipped": line.get("skipped", 0)})
        line |= self.state.method.figures(targets, line)
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
                "config": masked(to_dict(self.whole_cfg)),
            }
            save_encoder(product, self.folder.path, info)

    def evaluate(self, step: int) -> None:
        """k-NN accuracy on the labelled images, into the log; an alarm where training has made given weights worse.

        The processes share the images out among themselves, and each searches the neighbours of all.
        """
        if not self.monitor:
            return
        product = whole_product(self.state.method, self.cfg)
        train, test = self.monitor
        size = self.cfg.eval.size or self.cfg.views.global_size
        loaders = workers(self.cfg, self.device)
        result = knn.monitor(
            BackboneEncoder(product), train, test, size, self.cfg.eval.k, self.device, loaders,
            precision=self.cfg.run.precision,
        )  # fmt: skip
        self.log.line({"step": step, **result})
        self.log.say(f"step {step}: k-NN {result['knn']:.1%} on {result['knn_test_images']} images")
        at_start = self.measured().get(0, 0.0)
        if self.cfg.init.weights and result["knn"] < at_start - WORSE:
            self.log.say(
                f"ALARM at step {step}: k-NN was {at_start:.1%} with the weights it started from: training has made them worse. "
                "Remedy, in a new run.dir: a lower optim.lr, a longer init.freeze_backbone and optim.warmup; with a momentum teacher "
                "ema.start nearer to 1"
            )

    def evaluation_missed(self) -> bool:
        """Whether the process died between the checkpoint of this step and its evaluation."""
        step, phase = self.state.step, self.state.phase
        every = phase.steps(phase.cfg.eval.every, "eval.every")
        due = self.monitor and every and (step % every == 0 or step == phase.last)
        return bool(parallel.collect(due and step not in self.measured())[0])

    def measured(self) -> dict[int, float]:
        """k-NN accuracies so far, by step."""
        rows, _ = self.folder.read_metrics()
        return {row["step"]: row["knn"] for row in rows if "knn" in row}

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
                f"{self.cfg.data.max_broken:g} of them; remove those named in {self.folder.log}, or raise the option"
            )
