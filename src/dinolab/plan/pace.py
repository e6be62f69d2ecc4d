"""The speed of a run after its first steps: the step alone, the loader alone, and both together."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median, quantiles

import cv2
import torch

from dinolab.data import draws
from dinolab.data.loader import kept_ready
from dinolab.data.samples import MicroBatches
from dinolab.runs.build import needs_of
from dinolab.runs.rig import Batch, Rig

SETTLE = 2  # steps before the first that is timed
LOADER_SECONDS = 1.0  # that the loader alone is timed, at least
READ = 32  # images whose decoding is timed


@dataclass(frozen=True)
class Pace:
    """The speed of a run. Times are seconds."""

    measured_steps: int
    images_per_s: tuple[float, float, float]  # over the measured steps: lower quartile, median, upper quartile
    step_seconds: float  # for a step whose batch is loaded already
    loader_seconds: float  # for a batch from the loader, while nothing else computes
    together_seconds: float  # for a step while the loader works, mean
    data_wait: float  # share of together_seconds in which the step waits for the loader
    log_seconds: float  # for a line of the log

    @property
    def limit(self) -> str:
        """The slower of the two, "loader" or "device"."""
        return "loader" if self.loader_seconds > self.step_seconds else "device"


def measure_pace(rig: Rig, steps: int) -> Pace:
    """Measure the step alone, the loader alone, and both together.

    The forecast is based on the mean of the steps during which the loader works. That mean is right whatever the limit is: on a CPU
    step and loader share the cores, and a slow loader delivers several batches at once.
    """
    batch = next(rig.batches(0))
    step_seconds = time_step(rig, batch, steps)
    stream = rig.batches(rig.workers)
    loader_seconds = time_loader(rig, stream)
    seconds, data_wait = time_together(rig, stream, steps, loader_seconds, step_seconds, len(batch))
    del stream  # this ends its processes
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
    """A clock that marks moments in the order of the device's work, without making this process wait for a GPU."""

    def __init__(self, device: torch.device):
        self.device = device
        self.marks: list = []

    def mark(self) -> None:
        """Mark the moment at which all work submitted so far is done."""
        if self.device.type == "cuda":
            moment = torch.cuda.Event(enable_timing=True)
            moment.record(torch.cuda.current_stream(self.device))
            self.marks.append(moment)
            return
        if self.device.type == "mps":
            torch.mps.synchronize()
        self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return the seconds between each mark and the next."""
        if self.device.type != "cuda":
            return [b - a for a, b in pairwise(self.marks)]
        torch.cuda.synchronize(self.device)
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise(self.marks)]


def time_steps(
    rig: Rig, next_batch: Callable[[], Batch], steps: int, settle: int = SETTLE
) -> tuple[list[float], float]:
    """Time steps.

    Args:
        next_batch: loads a batch.
        steps: number of steps to time.
        settle: number of steps before them.

    Returns:
        The seconds of each step, and the share of their time that was spent waiting for `next_batch`.
    """
    clock, waited = Clock(rig.device), 0.0
    for n in range(settle + steps):
        if n == settle:
            clock.mark()
            waited = 0.0
        began = time.perf_counter()
        batch = next_batch()
        waited += time.perf_counter() - began
        rig.step(batch)
        if n >= settle:
            clock.mark()
    seconds = clock.seconds()
    return seconds, min(1.0, waited / sum(seconds))


def time_step(rig: Rig, batch: Batch, steps: int) -> float:
    """Measure the seconds of a step whose batch is loaded already."""
    return mean(time_steps(rig, lambda: batch, max(3, steps // 2))[0])


def burst(rig: Rig, per_step: int) -> int:
    """Return how many batches come until all loader processes have had a turn: those that start together deliver together."""
    return max(1, rig.workers // math.gcd(rig.workers, per_step))


def time_loader(rig: Rig, stream: Iterator[Batch]) -> float:
    """Measure the seconds that the loader takes for a batch while nothing else computes.

    The batches that it has ready are taken out first, and none is ready afterwards.
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
    """Time steps as `time_steps` does, while the loader works as it does later in a run.

    Later in a run the loader has no batch ready where it is slower than the step, and as many as it can where it is faster. A few
    steps that begin otherwise would be too fast, or too slow.

    Args:
        stream: batches from the loader, of which none is ready.
        steps: number of steps to time, at least.
        loader_seconds: for a batch, from `time_loader`.
        step_seconds: from `time_step`.
        per_step: number of micro-batches in a step.
    """
    if loader_seconds < step_seconds:
        time.sleep(loader_seconds * (kept_ready(per_step, rig.workers) * rig.workers / per_step + 1))
        return time_steps(rig, lambda: next(stream), steps)
    whole = burst(rig, per_step)
    return time_steps(rig, lambda: next(stream), whole * math.ceil(steps / whole), settle=max(SETTLE, whole))


def time_log(rig: Rig, batch: Batch) -> float:
    """Measure the seconds of the method's figures, which take nearly all the time of a line of the log."""
    step = rig.step(batch)
    rig.log_figures(*step)  # waits for what the step has left to do
    began = time.perf_counter()
    rig.log_figures(*step)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Reading:
    """The time of loading an image, in one process."""

    seconds: float
    decode_share: float  # share of it spent on reading and decoding
    short_side: int  # pixels, median of the images that were read


def measure_reading(rig: Rig) -> Reading:
    """Measure the time of loading a micro-batch in this process, and of only reading and decoding images."""
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
