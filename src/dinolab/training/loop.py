"""The training loop, the same for every method."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from dinolab.data import draws
from dinolab.data.device_views import Photos
from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.methods.base import Logs, Method
from dinolab.parallel import agree, rank, sum_over_ranks, world
from dinolab.precision import autocast
from dinolab.training.optim import optimizer_step
from dinolab.training.phases import Phase, StepValues
from dinolab.training.profile import span

MOST_SKIPPED = 10  # steps in a row, with optim.nan=skip


class Interrupted(Exception):
    """SIGTERM or Ctrl-C came, and the state was saved."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class StopSignals:
    """Inside the block, SIGTERM and Ctrl-C are only noted, so that the loop can finish its step and save."""

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
    method: Method,
    optimizer: torch.optim.Optimizer,
    phase: Phase,
    batches: Iterator[list[Views] | list[Photos]],
    start: int,
    signals: StopSignals,
    *,
    device: torch.device,
    compute: torch.dtype | None,
    log: Callable[[dict[str, float], list[Any], list[tuple[int, str]]], None],
    save: Callable[[int], None],
    evaluate: Callable[[int], None],
    end_step: Callable[[], object],
) -> None:
    """Train from step `start` to the end of the phase.

    With several processes, all ranks call this, and `log`, `save` and `evaluate` are called on all of them at once.

    Args:
        batches: each step's micro-batches, from step `start` on; their `to(device)` makes Views on the device.
        signals: entered by the caller.
        compute: the lower precision to compute in; None for fp32.
        log: called with the figures, the last targets, and the broken images met since the last call.
        save, evaluate: called with the number of finished steps.
        end_step: called at the end of each step.

    Raises:
        Interrupted: after a signal; the state is saved.
        UserError: the loss or the gradient is not finite; nothing bad is saved.
    """
    cfg, last = phase.cfg, phase.last
    save_every = phase.steps(cfg.run.save_every, "run.save_every") or phase.total
    eval_every = phase.steps(cfg.eval.every, "eval.every")
    skip = cfg.optim.nan == "skip"
    precision = autocast(device, compute)
    waited, since, steps = 0.0, time.perf_counter(), 0
    skipped, in_a_row = torch.zeros(2, device=device)
    broken: list[tuple[int, str]] = []
    method.train()
    for step in range(start, last):
        before = time.perf_counter()
        with span("data wait"):
            batch = next(batches)
        waited += time.perf_counter() - before
        broken += [b for part in batch for b in part.broken]
        with span("to device"):
            views = [part.to(device) for part in batch]

        torch.manual_seed(draws.seed(cfg.seed, step) + rank())  # stochastic depth: a function of seed and step too
        s = phase(step)
        if phase.begins_epoch(step):
            method.begin_epoch(int(phase.epoch(step)))
        parts, targets, grad_norm = train_step(method, optimizer, views, s, cfg.optim.clip, precision, skip)

        done, steps = step + 1, steps + 1
        bad = ~grad_norm.isfinite()
        skipped += bad
        in_a_row.add_(1).mul_(bad)
        ends, stop = done == last, agree(signals.seen)
        saves = done % save_every == 0 or ends or stop
        if done % cfg.run.log_every == 0 or saves:
            figures = mean_over_parts(parts) | {"step": done, "epoch": phase.epoch(done)}
            figures |= {"grad_norm": grad_norm.item()} | ({"skipped": skipped.item()} if skipped else {})
            if in_a_row > MOST_SKIPPED or not (skip or math.isfinite(figures["loss"] + figures["grad_norm"])):
                raise UserError(
                    f"NaN: at step {done} the loss is {figures['loss']}, the gradient norm {figures['grad_norm']}. "
                    "Remedy, in a new run.dir: a lower optim.lr, a longer optim.warmup, run.precision=fp32"
                )
            seconds = time.perf_counter() - since
            figures |= {"images_per_s": steps * cfg.optim.batch_size / seconds, "data_wait": waited / seconds}
            log(figures | s.figures, targets, broken)
            waited, since, steps, broken = 0.0, time.perf_counter(), 0, []
            skipped.zero_()
        if saves:
            save(done)
        if stop and not ends:
            raise Interrupted(stop)
        if eval_every and (done % eval_every == 0 or ends):
            paused = time.perf_counter()
            evaluate(done)
            method.train()
            since += time.perf_counter() - paused
        del parts, targets  # the targets would take memory through the whole next step
        end_step()


def mean_over_parts(parts: list[Logs]) -> dict[str, float]:
    """The parts of the loss by name, means over micro-batches and ranks."""
    means = torch.stack([torch.stack([p[name] for p in parts]).mean() for name in parts[0]])
    return dict(zip(parts[0], (sum_over_ranks(means) / world()).tolist()))


def train_step(
    method: Method,
    optimizer: torch.optim.Optimizer,
    views: list[Views],
    s: StepValues,
    clip: float,
    precision: AbstractContextManager,
    skip_nan: bool = False,
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
        with span("backward"):
            (loss / len(views)).backward()
        parts.append(logs)
    with span("optimizer"):
        grad_norm = optimizer_step(optimizer, s, clip, skip_nan)
    with span("EMA"):
        method.after_step(s)
    return parts, targets, grad_norm
