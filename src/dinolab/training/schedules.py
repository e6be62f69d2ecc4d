"""Everything that changes over a run, as functions of the step."""

import math
import re
from dataclasses import asdict, dataclass

from dinolab.config import Config
from dinolab.errors import UserError

UNITS = {"step": "steps", "steps": "steps", "epoch": "epochs", "epochs": "epochs", "ep": "epochs", "%": "%"}


def parse_duration(text: str, option: str) -> tuple[float, str]:
    """ "10 epochs" -> (10.0, "epochs"); units are steps, epochs and %."""
    match = re.fullmatch(r"\s*(\d+\.?\d*)\s*([a-z]+|%)\s*", text)
    if not match or match[2] not in UNITS:
        raise UserError(f'{option}={text!r} is no duration; write "10 epochs", "500 steps" or "10%" (of the run)')
    return float(match[1]), UNITS[match[2]]


@dataclass(frozen=True)
class Values:
    """The scheduled values of one step."""

    lr: float
    weight_decay: float
    momentum: float  # of the teacher
    teacher_temperature: float
    freeze_prototypes: bool

    def figures(self) -> dict[str, float]:
        """What goes into the log."""
        return {k: v for k, v in asdict(self).items() if k != "freeze_prototypes"}


class Schedules:
    """`schedules(step)` gives the values of a step; `images` is the size of the data set, which sets what an epoch is."""

    def __init__(self, cfg: Config, images: int):
        self.cfg = cfg
        self.steps_per_epoch = images / cfg.optim.batch_size
        value, unit = parse_duration(cfg.optim.length, "optim.length")
        if unit == "%":
            raise UserError("optim.length is the length of the run itself; give it in epochs or steps")
        self.total = round(value * (self.steps_per_epoch if unit == "epochs" else 1))
        if self.total < 1:
            raise UserError(f"optim.length={cfg.optim.length!r} is less than one step of {cfg.optim.batch_size} images")
        self.warmup = self.steps(cfg.optim.warmup, "optim.warmup")
        self.temperature_warmup = self.steps(cfg.loss.teacher_temperature_warmup, "loss.teacher_temperature_warmup")
        self.freeze = self.steps(cfg.optim.freeze_prototypes, "optim.freeze_prototypes")
        self.peak_lr = (
            cfg.optim.lr
            * {
                "linear": cfg.optim.batch_size / 256,
                "sqrt": math.sqrt(cfg.optim.batch_size / 1024),
                "none": 1.0,
            }[cfg.optim.lr_scaling]
        )

    def steps(self, text: str, option: str) -> int:
        """A duration in steps, at most the whole run."""
        value, unit = parse_duration(text, option)
        per_unit = {"steps": 1, "epochs": self.steps_per_epoch, "%": self.total / 100}[unit]
        return min(self.total, math.ceil(value * per_unit - 1e-9))  # up: "every 25%" is then four times, not five

    def __call__(self, step: int) -> Values:
        optim, loss, ema = self.cfg.optim, self.cfg.loss, self.cfg.ema
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
            freeze_prototypes=step < self.freeze,
        )


def cosine(start: float, end: float, step: int, steps: int) -> float:
    """Half a cosine from `start` at step 0 to `end` at the last of `steps`."""
    done = step / max(1, steps - 1)
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
