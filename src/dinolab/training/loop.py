"""The training loop, the same for every method."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from dinolab.data import draws
from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.methods.base import StudentTeacher, Targets
from dinolab.training.optim import optimizer_step
from dinolab.training.schedules import Schedules


class Interrupted(Exception):
    """SIGTERM or Ctrl-C came, and the state was saved."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class StopSignals:
    """While entered, SIGTERM and Ctrl-C are noted instead of obeyed, so that the loop can save between two steps."""

    def __enter__(self) -> "StopSignals":
        self.seen = 0
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.seen == signum == signal.SIGINT:  # Ctrl-C again: at once, without saving
            raise KeyboardInterrupt
        self.seen = signum

    def __exit__(self, *_: Any) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)


def train_loop(
    method: StudentTeacher,
    optimizer: torch.optim.AdamW,
    schedules: Schedules,
    batches: Iterator[list[Views]],
    start: int,
    *,
    device: torch.device,
    autocast: torch.dtype | None,
    log: Callable[[dict[str, float], list[Targets]], None],
    save: Callable[[int], None],
    evaluate: Callable[[int], None],
    met_broken: Callable[[list[tuple[int, str]]], None],
) -> None:
    """Steps `start` to the end of the schedules. `batches` yields each step's micro-batches, from step `start` on.

    Raises Interrupted after a signal, having saved, and UserError once the loss is not finite, with nothing bad saved.
    """
    cfg, total = schedules.cfg, schedules.total
    save_every = schedules.steps(cfg.run.save_every, "run.save_every") or total
    eval_every = schedules.steps(cfg.eval.every, "eval.every")
    precision = torch.autocast(device.type, autocast) if autocast else nullcontext()
    waited, since, images = 0.0, time.perf_counter(), 0
    method.train()
    with StopSignals() as signals:
        for step in range(start, total):
            asked = time.perf_counter()
            try:
                views = next(batches)
            except UserError:
                if not signals.seen:
                    raise
                save(step)  # a signal to the whole process group has ended the workers too
                raise Interrupted(signals.seen) from None
            waited += time.perf_counter() - asked
            met_broken([b for v in views for b in v.broken])
            views = [to_device(v, device) for v in views]

            torch.manual_seed(draws.seed(cfg.seed, step))  # stochastic depth: a function of seed and step too
            s = schedules(step)
            with precision:
                targets = method.targets(views, s)
            parts: list[dict[str, Tensor]] = []
            for v, t in zip(views, targets):
                with precision:
                    loss, logs = method.loss(v, t, s)
                (loss / len(views)).backward()
                parts.append(logs)
            grad_norm = optimizer_step(optimizer, s, cfg.optim.clip)
            method.after_step(s)

            done, images = step + 1, images + cfg.optim.batch_size
            last, stop = done == total, signals.seen
            saves = done % save_every == 0 or last or stop
            if done % cfg.run.log_every == 0 or saves:
                figures = {name: torch.stack([p[name] for p in parts]).mean().item() for name in parts[0]}
                figures |= {"step": done, "epoch": done / schedules.steps_per_epoch, "grad_norm": grad_norm.item()}
                if not math.isfinite(figures["loss"] + figures["grad_norm"]):
                    raise UserError(
                        f"NaN: at step {done} the loss is {figures['loss']}, the gradient norm {figures['grad_norm']}. "
                        "Remedy, in a new run.dir: a lower optim.lr, a longer optim.warmup, run.precision=fp32"
                    )
                seconds = time.perf_counter() - since
                figures |= {"images_per_s": images / seconds, "data_wait": waited / seconds}
                log(figures | s.figures(), targets)
                waited, since, images = 0.0, time.perf_counter(), 0
            if saves:
                save(done)
            if stop and not last:
                raise Interrupted(stop)
            if eval_every and (done % eval_every == 0 or last):
                paused = time.perf_counter()
                evaluate(done)
                method.train()
                since += time.perf_counter() - paused


def to_device(views: Views, device: torch.device) -> Views:
    pinned = device.type == "cuda"
    globals_, locals_ = (x.to(device, non_blocking=pinned) for x in (views.globals, views.locals))
    masks = None if views.masks is None else views.masks.to(device, non_blocking=pinned)
    return Views(globals_, locals_, masks, views.index, views.broken)
