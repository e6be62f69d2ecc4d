"""One run: what the training loop is handed, to log, save and evaluate by."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dinolab import parallel
from dinolab.config import to_dict
from dinolab.curation.decisions import lineage
from dinolab.data.storage import describe as location
from dinolab.data.types import Source
from dinolab.errors import UserError, masked
from dinolab.evals import knn
from dinolab.methods import METHODS
from dinolab.models.encoder import BackboneEncoder
from dinolab.options import Config
from dinolab.precision import choose_precision
from dinolab.rundir import Row, RunFolder
from dinolab.runs.accuracy import REMEDY, best_of, worse_in_a_row
from dinolab.runs.build import open_batches, whole_product, workers
from dinolab.runs.state import State, enter
from dinolab.training import checkpoint
from dinolab.training.health import Alarms
from dinolab.training.log import NoLog, RunLog
from dinolab.training.loop import Hooks, Interrupted, StopSignals, train_loop
from dinolab.training.phases import Phase
from dinolab.weights.load import save_encoder


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
        chain = lineage(self.source)
        self.curation: dict[str, Any] = {"curation": chain} if chain else {}
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
            save_encoder(product, self.folder.path, self.info(step))

    def info(self, step: int) -> dict[str, Any]:
        """What a model card says about where the weights of this step come from."""
        config = masked(to_dict(self.whole_cfg))
        made = {
            "method": self.cfg.method,
            "network": self.state.method.PRODUCT,
            "step": step,
            "images": len(self.source),
        }
        return made | {"config": config} | self.curation

    def evaluate(self, step: int) -> None:
        """k-NN accuracy on the labelled images, into the log; the weights of the best one are kept.

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
        row = {"step": step, **result}
        rows = [*(earlier for earlier in self.measured() if earlier["step"] < step), row]
        self.log.line(row)
        self.log.say(f"step {step}: k-NN {result['knn']:.1%} on {result['knn_test_images']} images")
        if parallel.rank() == 0 and best_of(rows) is row:
            save_encoder(product, self.folder.best, self.info(step) | {"knn": result["knn"]})
        if self.cfg.init.weights:
            self.compare_with_start(rows)

    def compare_with_start(self, rows: list[Row]) -> None:
        """An alarm where training has made given weights worse. Raises UserError where it has so several times in a row."""
        worse = parallel.collect(worse_in_a_row(rows))[0]
        if not worse:
            return
        step, fall = (
            rows[-1]["step"],
            f"from {rows[0]['knn']:.1%} with the weights it started from to {rows[-1]['knn']:.1%}",
        )
        self.log.say(
            f"ALARM at step {step}: k-NN fell {fall}, more than chance explains: training has made them worse. {REMEDY}"
        )
        if worse >= self.cfg.eval.stop_after > 0:
            raise UserError(
                f"k-NN fell {fall}, and {worse} measurements in a row are clearly below the start. {REMEDY}; eval.stop_after=0 "
                f"goes on nevertheless. {self.best()}"
            )

    def best(self) -> str:
        """The best measurement and where its weights are, in words; empty where nothing is measured."""
        row = best_of(self.measured())
        return f"best k-NN {row['knn']:.1%}, at step {row['step']}: {self.folder.best}" if row else ""

    def evaluation_missed(self) -> bool:
        """Whether the process died between the checkpoint of this step and its evaluation."""
        step, phase = self.state.step, self.state.phase
        every = phase.steps(phase.cfg.eval.every, "eval.every")
        due = self.monitor and every and (step % every == 0 or step == phase.last)
        return bool(parallel.collect(due and step not in [row["step"] for row in self.measured()])[0])

    def measured(self) -> list[Row]:
        """The lines of the log with k-NN accuracies, by step."""
        rows, _ = self.folder.read_metrics()
        return [row for row in rows if {"knn", "knn_test_images"} <= row.keys()]

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
                f"{self.cfg.data.max_broken:g} of them; remove those named in {self.folder.log} and use another "
                "run.dir, or raise the option"
            )
