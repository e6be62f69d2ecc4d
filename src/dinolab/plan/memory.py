"""The largest batch that fits into memory: a line through the peaks at two sizes, and on a GPU a trial of the prediction."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch

from dinolab.errors import UserError
from dinolab.memory import can_measure, peak_memory, room
from dinolab.options import Config
from dinolab.plan.rig import Rig
from dinolab.runs.build import micro_batch_sizes

HEADROOM = 0.9  # share of the available memory that a prediction may fill
SMALLEST = 8  # images in a forward with which the measurement begins
TRY_SECONDS = 30  # for loading the images of a trial, at most
REACH = 32  # times the batch: no prediction goes further, since parts of a loss may grow with the square of the batch
BATCHES = [1, 2, 4, *range(8, (1 << 20) + 1, 8)]


@dataclass(frozen=True)
class Memory:
    """Memory of a step in bytes: about fixed + per_image x the value of `option`, which is the option that a user would change."""

    peak: int  # of a step as configured, but not compiled
    room: int  # available to this process
    total: int  # of the device or machine
    option: str  # run.micro_batch where it is set, else optim.batch_size; in the phase highres, its own options
    fixed: float
    per_image: float  # 0 where no difference between the sizes can be measured
    largest: int  # greatest value of the option that fits, searched up to REACH times the present one
    tried: bool  # whether a step of that size was done; else it is a prediction


def measure_memory(rig: Rig, load_seconds: float) -> Memory | None:
    """Do a few steps of growing size and measure their peaks; None where memory cannot be measured.

    Args:
        load_seconds: for one image, in one process.

    Raises:
        torch.OutOfMemoryError: the step does not fit on the GPU.
        UserError: the step would not fit into the memory of a CPU. The system would kill the process, so it is predicted from
            smaller steps before it is tried.
    """
    if not can_measure(rig.device):
        return None
    have, total = room(rig.device)
    batch, micro = rig.cfg.optim.batch_size, rig.cfg.run.micro_batch
    *smaller, forward = sizes_up_to(micro or batch)
    peaks: list[
        tuple[int, int]
    ] = []  # (size, bytes), smallest first: a process on a CPU may keep memory that it once had
    with eager(rig.cfg):
        for n in smaller:
            images = n * (batch // forward)
            refuse_too_large(rig, peaks, images, have)
            peaks.append((images, step_peak(rig, images, n)))
        refuse_too_large(rig, peaks, batch, have)
        if micro:  # the batch stays, and only its parts change
            part = [n for n in micro_batch_sizes(batch) if n < micro][-1:]
            peaks = [(n, step_peak(rig, batch, n)) for n in part]
        peak = step_peak(rig, batch, forward)
        fixed, per_image = line([*peaks, (forward, peak)])
        largest, tried = find_largest(rig, forward, fixed, per_image, have, load_seconds)
    option = rig.micro_option if micro else rig.batch_option
    return Memory(peak, have, total, option, fixed, per_image, largest, tried)


def find_largest(
    rig: Rig, now: int, fixed: float, per_image: float, have: int, load_seconds: float
) -> tuple[int, bool]:
    """Return the largest micro-batch, or batch, that fits, no smaller than the present one; and whether it was tried."""
    batch, micro = rig.cfg.optim.batch_size, rig.cfg.run.micro_batch
    choices = micro_batch_sizes(batch) if micro else [n for n in BATCHES if n <= REACH * now]
    budget = HEADROOM * have
    while True:
        largest = max(now, largest_that_fits(fixed, per_image, budget, choices)) if per_image else now
        if largest == now:
            return largest, True
        if rig.device.type == "cpu" or largest * load_seconds > TRY_SECONDS:
            return largest, False
        if runs(rig, batch if micro else largest, largest):
            return largest, True
        budget *= HEADROOM


def eager(cfg: Config) -> AbstractContextManager:
    """Compile nothing inside: each size of batch would be compiled again, and code for varying sizes is slower."""
    return torch.compiler.set_stance("force_eager") if cfg.run.compile else nullcontext()


def sizes_up_to(n: int) -> list[int]:
    """Return n, its half, its quarter and so on, smallest first: down to SMALLEST, but at least two sizes if n is above 1."""
    halves = [n >> i for i in range(n.bit_length())]
    return sorted(size for size in halves if size >= min(SMALLEST, max(1, n // 2)))


def line(peaks: list[tuple[int, int]]) -> tuple[float, float]:
    """Compute the bytes that do not depend on the size, and those for each image, from the last two peaks (size, bytes)."""
    if len(peaks) < 2 or peaks[-1][1] <= peaks[-2][1]:
        return peaks[-1][1], 0.0
    (n0, bytes0), (n1, bytes1) = peaks[-2:]
    per_image = (bytes1 - bytes0) / (n1 - n0)
    return bytes1 - per_image * n1, per_image


def largest_that_fits(fixed: float, per_image: float, budget: float, choices: Iterable[int]) -> int:
    """Return the largest of the choices whose bytes are within the budget; 0 if there is none."""
    return max((n for n in choices if fixed + per_image * n <= budget), default=0)


def refuse_too_large(rig: Rig, peaks: list[tuple[int, int]], images: int, have: int) -> None:
    """On a CPU, raise UserError if a step of this size will not fit, as predicted from the peaks so far."""
    if rig.device.type != "cpu" or len(peaks) < 2:
        return
    fixed, per_image = line(peaks)
    if (need := fixed + per_image * images) > have:
        fits = largest_that_fits(fixed, per_image, HEADROOM * have, BATCHES)
        raise UserError(
            f"a step of {images} images would take about {need / 1e9:.0f} GB of memory, and {have / 1e9:.0f} GB are available: "
            f"set {rig.batch_option}={fits} or less, or a smaller {rig.micro_option}"
        )


def step_peak(rig: Rig, images: int, micro_batch: int) -> int:
    """Do a step on this number of images, in micro-batches of this size, and return its peak of memory in bytes."""
    optim, run = replace(rig.cfg.optim, batch_size=images), replace(rig.cfg.run, micro_batch=micro_batch)
    batch = next(rig.batches(0, replace(rig.cfg, optim=optim, run=run)))
    return peak_memory(lambda: rig.step(batch), rig.device)


def runs(rig: Rig, images: int, micro_batch: int) -> bool:
    """Try a step of this size, and return whether it fits on the GPU."""
    try:
        step_peak(rig, images, micro_batch)
    except torch.OutOfMemoryError:
        fits = False
    else:
        fits = True
    rig.optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return fits
