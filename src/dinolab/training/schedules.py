"""Everything that changes over a run, as functions of the step; and the phases that a run consists of."""

import math
from copy import deepcopy
from dataclasses import asdict, dataclass

from dinolab.config import parse_duration
from dinolab.errors import UserError
from dinolab.options import Config
from dinolab.recipes import validate


@dataclass(frozen=True)
class Values:
    """The scheduled values of one step."""

    lr: float
    weight_decay: float
    momentum: float  # of the teacher
    teacher_temperature: float
    freeze_prototypes: bool
    freeze_backbone: bool

    def figures(self) -> dict[str, float]:
        """What goes into the log."""
        return {k: v for k, v in asdict(self).items() if not k.startswith("freeze_")}


class Schedules:
    """`schedules(step)` gives the values of a step, from `first` to `last` - 1; `images` is the size of the data set, which
    sets what an epoch is. `after`: the phase of the run before this one.
    """

    def __init__(self, cfg: Config, images: int, after: "Schedules | None" = None):
        self.cfg = cfg
        self.first = after.last if after else 0
        self.epochs_before = after.epoch(after.last) if after else 0.0
        self.steps_per_epoch = images / cfg.optim.batch_size
        value, unit = parse_duration(cfg.optim.length, "optim.length")
        self.total = round(value * (self.steps_per_epoch if unit == "epochs" else 1))
        if self.total < 1:
            raise UserError(f"optim.length={cfg.optim.length!r} is less than one step of {cfg.optim.batch_size} images")
        self.warmup = self.steps(cfg.optim.warmup, "optim.warmup")
        self.temperature_warmup = self.steps(cfg.loss.teacher_temperature_warmup, "loss.teacher_temperature_warmup")
        self.freeze_prototypes = self.steps(cfg.optim.freeze_prototypes, "optim.freeze_prototypes")
        self.freeze_backbone = self.steps(cfg.init.freeze_backbone, "init.freeze_backbone") if cfg.init.weights else 0
        self.peak_lr = (
            cfg.optim.lr
            * {
                "linear": cfg.optim.batch_size / 256,
                "sqrt": math.sqrt(cfg.optim.batch_size / 1024),
                "none": 1.0,
            }[cfg.optim.lr_scaling]
        )

    @property
    def last(self) -> int:
        """The step of the run before which the phase ends."""
        return self.first + self.total

    def epoch(self, step: int) -> float:
        """Passes over the data before this step of the run."""
        return self.epochs_before + (step - self.first) / self.steps_per_epoch

    def steps(self, text: str, option: str) -> int:
        """A duration in steps, at most the whole phase."""
        value, unit = parse_duration(text, option)
        per_unit = {"steps": 1, "epochs": self.steps_per_epoch, "%": self.total / 100}[unit]
        return min(self.total, math.ceil(value * per_unit - 1e-9))  # up: "every 25%" is then four times, not five

    def __call__(self, step: int) -> Values:
        optim, loss, ema = self.cfg.optim, self.cfg.loss, self.cfg.ema
        step -= self.first
        if step < self.warmup:
            lr = self.peak_lr * (step + 1) / self.warmup
        else:
            lr = cosine(self.peak_lr, min(optim.min_lr, self.peak_lr), step - self.warmup, self.total - self.warmup)
        heat = min(1.0, step / self.temperature_warmup) if self.temperature_warmup else 1.0
        return Values(
            lr=lr,
            weight_decay=cosine(optim.weight_decay, optim.weight_decay_end, step, self.total),
            momentum=cosine(ema.start, ema.end, step, self.total),
            teacher_temperature=loss.teacher_temperature_start
            + heat * (loss.teacher_temperature - loss.teacher_temperature_start),
            freeze_prototypes=step < self.freeze_prototypes,
            freeze_backbone=step < self.freeze_backbone,
        )


def cosine(start: float, end: float, step: int, steps: int) -> float:
    """Half a cosine from `start` at step 0 to `end` at the last of `steps`."""
    done = step / max(1, steps - 1)
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def plan_phases(cfg: Config, images: int) -> list[Schedules]:
    """The run's phases, in order: all of it but for `highres`; then that, if it has a length."""
    run = [Schedules(cfg, images)]
    if has_highres(cfg):
        high = high_resolution(cfg)
        try:
            validate(high)
            run.append(Schedules(high, images, after=run[0]))
        except UserError as error:
            raise UserError(f"in the phase of highres.length={cfg.highres.length}: {error}") from error
    return run


def has_highres(cfg: Config) -> bool:
    return parse_duration(cfg.highres.length, "highres.length")[0] > 0


def high_resolution(cfg: Config) -> Config:
    """The options of the last phase: larger crops, and schedules of its own. Weight decay and teacher temperature go on where
    they have ended; the learning rate warms up anew, and the teacher's momentum begins at `ema.start` again.
    """
    high, patch, cfg = cfg.highres, cfg.model.patch_size, deepcopy(cfg)
    larger = round(cfg.views.global_size / patch * (37 / 16 if patch == 14 else 2)) * patch
    cfg.views.global_size = high.global_size or larger
    cfg.views.local_size = high.local_size or cfg.views.local_size
    cfg.optim.length, cfg.optim.warmup, cfg.optim.lr = high.length, high.warmup, high.lr or cfg.optim.lr / 10
    cfg.optim.batch_size = high.batch_size or cfg.optim.batch_size
    cfg.optim.weight_decay = cfg.optim.weight_decay_end
    cfg.loss.teacher_temperature_start = cfg.loss.teacher_temperature
    cfg.optim.freeze_prototypes = cfg.init.freeze_backbone = "0 steps"
    cfg.run.micro_batch = high.micro_batch or cfg.run.micro_batch
    cfg.highres.length = "0 steps"
    return cfg
