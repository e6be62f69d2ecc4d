"""How fast a run goes once it has settled: the step alone, the loader alone, and both together."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median, quantiles

import cv2
import torch

from dinolab.data import draws
from dinolab.data.loader import MicroBatches, kept_ready
from dinolab.plan.rig import Batch, Rig
from dinolab.runs.build import needs_of

SETTLE = 2  # steps that pass before any are timed
LOADER_SECONDS = 1.0  # how long the loader alone is timed at least
READ = 32  # images whose decoding is timed


@dataclass(frozen=True)
class Pace:
    """Seconds, unless it says otherwise."""

    measured_steps: int
    images_per_s: tuple[float, float, float]  # over the measured steps: lower quartile, median, upper quartile
    step_seconds: float  # a step with its batch at hand
    loader_seconds: float  # a batch from the loader, nothing else going on
    together_seconds: float  # a step with the loader at work, mean
    data_wait: float  # share of that spent waiting for the loader
    log_seconds: float  # a line of the log

    @property
    def limit(self) -> str:
        return "loader" if self.loader_seconds > self.step_seconds else "device"


def measure_pace(rig: Rig, steps: int) -> Pace:
    """The forecast rests on the mean of the steps taken with the loader at work, which is right whatever holds them up:
    on a CPU both want the same cores, and a slow loader delivers in bursts.
    """
    batch = next(rig.batches(0))
    step_seconds = time_step(rig, batch, steps)
    stream = rig.batches(rig.workers)
    loader_seconds = time_loader(rig, stream)
    seconds, data_wait = time_together(rig, stream, steps, loader_seconds, step_seconds, len(batch))
    del stream  # ends its processes
    rates = [rig.cfg.optim.batch_size / s for s in seconds]
    low, _, high = quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else rates * 3
    return Pace(
        measured_steps=len(seconds),
        images_per_s=(low, median(rates), high),
        step_seconds=step_seconds,
        loader_seconds=loader_seconds,
        together_seconds=mean(seconds),
        data_wait=data_wait,
        log_seconds=time_log(rig, batch),
    )


class Clock:
    """Moments in the device's own order of work; marking one does not make the process wait for a GPU."""

    def __init__(self, device: torch.device):
        self.device = device
        self.marks: list = []

    def mark(self) -> None:
        if self.device.type == "cuda":
            moment = torch.cuda.Event(enable_timing=True)
            moment.record(torch.cuda.current_stream(self.device))
            self.marks.append(moment)
            return
        if self.device.type == "mps":
            torch.mps.synchronize()
        self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Between each mark and the next."""
        if self.device.type != "cuda":
            return [b - a for a, b in pairwise(self.marks)]
        torch.cuda.synchronize(self.device)
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise(self.marks)]


def time_steps(
    rig: Rig, next_batch: Callable[[], Batch], steps: int, settle: int = SETTLE
) -> tuple[list[float], float]:
    """Seconds of each of so many steps after the first few, and the share of their time spent waiting for `next_batch`."""
    clock, waited = Clock(rig.device), 0.0
    for n in range(settle + steps):
        if n == settle:
            clock.mark()
            waited = 0.0
        asked = time.perf_counter()
        batch = next_batch()
        waited += time.perf_counter() - asked
        rig.step(batch)
        if n >= settle:
            clock.mark()
    seconds = clock.seconds()
    return seconds, min(1.0, waited / sum(seconds))


def time_step(rig: Rig, batch: Batch, steps: int) -> float:
    """Seconds of a step whose batch is at hand."""
    return mean(time_steps(rig, lambda: batch, max(3, steps // 2))[0])


def burst(rig: Rig, per_step: int) -> int:
    """Batches after which it is the first loader process's turn again: processes that start together deliver together."""
    return max(1, rig.workers // math.gcd(rig.workers, per_step))


def time_loader(rig: Rig, stream: Iterator[Batch]) -> float:
    """Seconds that the loader takes for a batch when it alone is at work, once what it has in store is used up.

    Leaves the store empty.
    """
    per_step = len(next(stream))
    for _ in range(kept_ready(per_step, rig.workers) * rig.workers // per_step):
        next(stream)
    began, count = time.perf_counter(), 0
    while count < 2 * burst(rig, per_step) or time.perf_counter() - began < LOADER_SECONDS:
        for _ in range(burst(rig, per_step)):
            next(stream)
            count += 1
    return (time.perf_counter() - began) / count


def time_together(
    rig: Rig, stream: Iterator[Batch], steps: int, loader_seconds: float, step_seconds: float, per_step: int
) -> tuple[list[float], float]:
    """As `time_steps`, with the loader at work as in the long run. `stream` must have nothing in store.

    In the long run the loader's store is empty where the loader is slower than the step, and full where it is faster; a few
    steps begun with the wrong one would be too fast, or too slow.
    """
    if loader_seconds < step_seconds:
        time.sleep(loader_seconds * (kept_ready(per_step, rig.workers) * rig.workers / per_step + 1))
        return time_steps(rig, lambda: next(stream), steps)
    whole = burst(rig, per_step)
    return time_steps(rig, lambda: next(stream), whole * math.ceil(steps / whole), settle=max(SETTLE, whole))


def time_log(rig: Rig, batch: Batch) -> float:
    """Seconds of the health figures, which are nearly all of a line of the log."""
    step = rig.step(batch)
    rig.log_figures(*step)  # waits for what the step has left to do
    began = time.perf_counter()
    rig.log_figures(*step)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Reading:
    """What loading an image takes, in one process."""

    seconds: float
    decode_share: float  # of that: reading and decoding
    short_side: int  # pixels, median of the images looked at


def measure_reading(rig: Rig) -> Reading:
    dataset = MicroBatches(rig.source, rig.cfg, on_device=rig.device_views, needs=needs_of(rig.cfg))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a loader process
    try:
        began = time.perf_counter()
        dataset.build(0)
        whole = (time.perf_counter() - began) / dataset.micro
        sides = []
        began = time.perf_counter()
        for number in range(dataset.micro, dataset.micro + READ):
            rng = draws.rng(rig.cfg.seed, draws.SAMPLE, number)
            crops = dataset.read(dataset.image_of(number), rng, [])[2]
            sides.append(int(min(crops.size)))
        decode = (time.perf_counter() - began) / READ
    finally:
        cv2.setNumThreads(threads)
    return Reading(whole, min(1.0, decode / whole), round(median(sides)))
