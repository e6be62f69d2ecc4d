"""The training loop, the same for every method."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from dinolab.data import draws
from dinolab.data.device_views import Photos
from dinolab.data.types import Views
from dinolab.errors import Told, UserError
from dinolab.methods.base import Logs, Method
from dinolab.options import Optim
from dinolab.parallel import agree, rank, sum_over_ranks, world
from dinolab.precision import autocast, quick_products
from dinolab.training.optim import optimizer_step
from dinolab.training.phases import Phase, StepValues
from dinolab.training.profile import span

MOST_SKIPPED = 10  # steps in a row, with optim.nan=skip
BrokenImage = tuple[int, str]  # position in the source, and why it cannot be read


class Interrupted(Told):
    """SIGTERM or Ctrl-C came, and the state was saved."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}; saved. The same command continues from here.")
        self.signum = signum


class StopSignals:
    """Inside the block, SIGTERM and Ctrl-C are only noted, so that the loop can finish its step and save.

    In any thread but the main one nothing changes: Python lets only the main thread handle signals.
    """

    def __enter__(self) -> "StopSignals":
        self.seen = 0
        handled = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        self._before = {s: signal.signal(s, self._note) for s in handled}
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.seen == signum == signal.SIGINT:  # Ctrl-C again: at once, without saving
            raise KeyboardInterrupt
        self.seen = signum

    def __exit__(self, *_: Any) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)


@dataclass
class Hooks:
    """The functions that the loop calls while it trains. With several processes, all ranks call them at once."""

    log: Callable[
        [dict[str, float], list[Any], list[BrokenImage]], None
    ]  # figures, last targets, broken images since the last call
    save: Callable[[int], None]  # the number of finished steps
    evaluate: Callable[[int], None]  # the number of finished steps
    end_step: Callable[[], object]  # at the end of each step


class Meter:
    """Counts and times between two lines of the log."""

    def __init__(self, device: torch.device):
        # On the device: reading them back in every step would make the host wait for it.
        self.skipped, self.in_a_row = torch.zeros(2, device=device)
        self.broken: list[BrokenImage] = []
        self.start()

    def start(self) -> None:
        """Begin to measure anew, after a line."""
        self.waited, self.steps, self.broken, self.since = 0.0, 0, [], time.perf_counter()
        self.skipped.zero_()

    def next(self, batches: Iterator[list[Views] | list[Photos]]) -> list[Views] | list[Photos]:
        """The next batch; the time spent waiting for it counts."""
        before = time.perf_counter()
        with span("data wait"):
            batch = next(batches)
        self.waited += time.perf_counter() - before
        self.broken += [image for part in batch for image in part.broken]
        return batch

    def count(self, grad_norm: Tensor) -> None:
        """A step is done; it was skipped if the gradient's norm is not finite."""
        self.steps += 1
        bad = ~grad_norm.isfinite()
        self.skipped += bad
        self.in_a_row.add_(1).mul_(bad)

    def speed(self, batch_size: int) -> dict[str, float]:
        seconds = time.perf_counter() - self.since
        return {"images_per_s": self.steps * batch_size / seconds, "data_wait": self.waited / seconds}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time of the block does not count."""
        before = time.perf_counter()
        yield
        self.since += time.perf_counter() - before


def train_loop(
    method: Method,
    optimizer: torch.optim.Optimizer,
    phase: Phase,
    batches: Iterator[list[Views] | list[Photos]],
    start: int,
    signals: StopSignals,
    hooks: Hooks,
    device: torch.device,
    compute: torch.dtype | None,
) -> None:
    """Train from step `start` to the end of the phase.

    Args:
        batches: each step's micro-batches, from step `start` on; their `to(device)` makes Views on the device.
        signals: entered by the caller.
        compute: the lower precision to compute in; None for fp32.

    Raises:
        Interrupted: after a signal; the state is saved.
        UserError: the loss or the gradient is not finite; nothing bad is saved.
    """
    cfg = phase.cfg
    save_every = phase.steps(cfg.run.save_every, "run.save_every") or phase.total
    eval_every = phase.steps(cfg.eval.every, "eval.every")
    precision, meter = autocast(device, compute), Meter(device)
    method.train()
    for step in range(start, phase.last):
        batch = meter.next(batches)
        with span("to device"):
            views = [part.to(device) for part in batch]
        torch.manual_seed(draws.seed(cfg.seed, step) + rank())  # stochastic depth: a function of seed and step too
        if phase.begins_epoch(step):
            method.begin_epoch(int(phase.epoch(step)))
        s = phase(step)
        parts, targets, grad_norm = train_step(method, optimizer, views, s, cfg.optim, precision)
        meter.count(grad_norm)

        done = step + 1
        ends, stop = done == phase.last, agree(signals.seen)
        saves = done % save_every == 0 or ends or stop
        if done % cfg.run.log_every == 0 or saves:
            figures = step_figures(phase, done, parts, grad_norm, meter)
            hooks.log(figures | meter.speed(cfg.optim.batch_size) | s.figures, targets, meter.broken)
            meter.start()
        if saves:
            hooks.save(done)
        if stop and not ends:
            raise Interrupted(stop)
        if eval_every and (done % eval_every == 0 or ends):
            with meter.paused():
                hooks.evaluate(done)
                method.train()
        del parts, targets  # the targets would take memory through the whole next step
        hooks.end_step()


def step_figures(phase: Phase, done: int, parts: list[Logs], grad_norm: Tensor, meter: Meter) -> dict[str, float]:
    """The last step's loss and gradient for the log. Raises UserError where they are not finite and may not be skipped."""
    figures = mean_over_parts(parts) | {"step": done, "epoch": phase.epoch(done), "grad_norm": grad_norm.item()}
    if meter.skipped:
        figures["skipped"] = meter.skipped.item()
    finite = phase.cfg.optim.nan == "skip" or math.isfinite(figures["loss"] + figures["grad_norm"])
    if not finite or meter.in_a_row > MOST_SKIPPED:
        raise UserError(
            f"NaN: at step {done} the loss is {figures['loss']}, the gradient norm {figures['grad_norm']}. "
            "Remedy, in a new run.dir: a lower optim.lr, a longer optim.warmup, run.precision=fp32"
        )
    return figures


def mean_over_parts(parts: list[Logs]) -> dict[str, float]:
    """The parts of the loss by name, means over micro-batches and ranks."""
    means = torch.stack([torch.stack([p[name] for p in parts]).mean() for name in parts[0]])
    return dict(zip(parts[0], (sum_over_ranks(means) / world()).tolist()))


@quick_products()  # for the backward pass too
def train_step(
    method: Method,
    optimizer: torch.optim.Optimizer,
    views: list[Views],
    s: StepValues,
    cfg: Optim,
    precision: AbstractContextManager,
) -> tuple[list[Logs], list[Any], Tensor]:
    """One step on a batch, given as its micro-batches: Algorithm 1 of DINO (arXiv 2104.14294).

    Returns each micro-batch's parts of the loss and its targets, and the gradient's norm before clipping.
    """
    with span("targets"), precision:
        targets = method.targets(views, s)
    parts: list[Logs] = []
    for v, t in zip(views, targets):
        with span("loss"), precision:
            loss, logs = method.loss(v, t, s)
            if method.pull:
                loss, logs = method.pull.add(loss, logs, v)
        with span("backward"):
            (loss / len(views)).backward()
        parts.append(logs)
    with span("optimizer"):
        grad_norm = optimizer_step(optimizer, method.student, s, cfg)
    with span("after step"):
        method.after_step(s)
    return parts, targets, grad_norm
