"""The phases that a run consists of, and everything that changes over a phase, as functions of the step."""

import math
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial

from dinolab.config import parse_duration
from dinolab.errors import UserError
from dinolab.methods import METHODS
from dinolab.methods.schedules import Freeze, Schedule, cosine
from dinolab.options import Config, Optim
from dinolab.recipes import validate


@dataclass(frozen=True)
class StepValues:
    """The scheduled values of one step."""

    figures: dict[str, float]  # by name: lr, weight_decay, and the method's own; they go into the log
    frozen: dict[str, str] = field(
        default_factory=dict
    )  # parts of the student that are held fixed: by what, see Freeze

    def __getitem__(self, name: str) -> float:
        return self.figures[name]


class Phase:
    """A stretch of a run with the same options; `phase(step)` gives the values of a step, from `first` to `last` - 1.

    Args:
        cfg: the phase's options.
        images: size of the data set, which determines what an epoch is.
        after: the phase of the run before this one.
    """

    def __init__(self, cfg: Config, images: int, after: "Phase | None" = None):
        self.cfg = cfg
        self.first = after.last if after else 0
        self.epochs_before = after.epoch(after.last) if after else 0.0
        self.steps_per_epoch = images / cfg.optim.batch_size
        value, unit = parse_duration(cfg.optim.length, "optim.length")
        self.total = round(value * (self.steps_per_epoch if unit == "epochs" else 1))
        if self.total < 1:
            raise UserError(f"optim.length={cfg.optim.length!r} is less than one step of {cfg.optim.batch_size} images")
        self.longer: dict[str, str] = {}  # durations by option that are longer than the whole phase, and are cut
        self.warmup = self.steps(cfg.optim.warmup, "optim.warmup")
        self.peak_lr = scaled_lr(cfg.optim)
        method = METHODS[cfg.method]
        backbone = self.steps(cfg.init.freeze_backbone, "init.freeze_backbone") if cfg.init.weights else 0
        self.frozen = {"backbone": Freeze(backbone)} | method.frozen(cfg, self)  # by part of the student
        decay = cfg.optim.weight_decay, cfg.optim.weight_decay_end
        self.schedules: dict[str, Schedule] = {"lr": self.lr, "weight_decay": partial(self.cosine_over_phase, *decay)}
        self.schedules |= method.schedules(cfg, self)

    @property
    def last(self) -> int:
        """The step of the run before which the phase ends."""
        return self.first + self.total

    @property
    def everything_trained(self) -> int:
        """The first step of the run in this phase at which no part is held fixed."""
        return self.first + min(max(part.steps for part in self.frozen.values()), self.total - 1)

    def epoch(self, step: int) -> float:
        """Passes over the data before this step of the run."""
        return self.epochs_before + (step - self.first) / self.steps_per_epoch

    def begins_epoch(self, step: int) -> bool:
        """Whether the step is the first of the run, or begins with images of a new pass over the data."""
        return step == self.first or int(self.epoch(step)) > int(self.epoch(step - 1))

    def steps(self, text: str, option: str) -> int:
        """A duration in steps, at most the whole phase."""
        value, unit = parse_duration(text, option)
        per_unit = {"steps": 1, "epochs": self.steps_per_epoch, "%": self.total / 100}[unit]
        steps = math.ceil(value * per_unit - 1e-9)  # up: "every 25%" is then four times, not five
        if steps > self.total:
            self.longer[option] = text
        return min(self.total, steps)

    def __call__(self, step: int) -> StepValues:
        step -= self.first
        figures = {name: schedule(step) for name, schedule in self.schedules.items()}
        return StepValues(figures, {part: freeze.by for part, freeze in self.frozen.items() if step < freeze.steps})

    def lr(self, step: int) -> float:
        """Up to the peak in a line, then down to min_lr on half a cosine."""
        if step < self.warmup:
            return self.peak_lr * (step + 1) / self.warmup
        lowest = min(self.cfg.optim.min_lr, self.peak_lr)
        return cosine(self.peak_lr, lowest, step - self.warmup, self.total - self.warmup)

    def cosine_over_phase(self, start: float, end: float, step: int) -> float:
        return cosine(start, end, step, self.total)


def scaled_lr(optim: Optim) -> float:
    """The peak learning rate for this batch size."""
    factors = {"linear": optim.batch_size / 256, "sqrt": math.sqrt(optim.batch_size / 1024), "none": 1.0}
    return optim.lr * factors[optim.lr_scaling]


def plan_phases(cfg: Config, images: int) -> list[Phase]:
    """The run's phases, in order: all of it but for `highres`; then that, if it has a length."""
    run = [Phase(cfg, images)]
    if has_highres(cfg):
        high = high_resolution(cfg)
        try:
            validate(high)
            run.append(Phase(high, images, after=run[0]))
        except UserError as error:
            raise UserError(f"in the phase of highres.length={cfg.highres.length}: {error}") from error
    return run


def has_highres(cfg: Config) -> bool:
    return parse_duration(cfg.highres.length, "highres.length")[0] > 0


def high_resolution(cfg: Config) -> Config:
    """The options of the last phase: larger crops, and schedules of its own.

    Weight decay continues where it ended, and so do the method's schedules where the method says so; the learning rate warms up again.
    """
    high, patch, cfg = cfg.highres, cfg.model.patch_size, deepcopy(cfg)
    larger = round(cfg.views.global_size / patch * (37 / 16 if patch == 14 else 2)) * patch
    cfg.views.global_size = high.global_size or larger
    cfg.views.local_size = high.local_size or cfg.views.local_size
    cfg.optim.length, cfg.optim.warmup, cfg.optim.lr = high.length, high.warmup, high.lr or cfg.optim.lr / 10
    cfg.optim.batch_size = high.batch_size or cfg.optim.batch_size
    cfg.optim.weight_decay = cfg.optim.weight_decay_end
    cfg.init.freeze_backbone = "0 steps"
    cfg.run.micro_batch = high.micro_batch or cfg.run.micro_batch
    cfg.highres.length = "0 steps"
    METHODS[cfg.method].continue_in_next_phase(cfg)
    return cfg
