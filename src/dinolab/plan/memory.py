"""How large a batch fits: a line through the peaks of memory at two sizes, and on a GPU a trial of what it says."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch

from dinolab.errors import UserError
from dinolab.memory import can_measure, peak_memory, room
from dinolab.options import Config
from dinolab.plan.rig import Rig
from dinolab.runs.build import micro_batch_sizes

HEADROOM = 0.9  # of the memory to be had, for a prediction
SMALLEST = 8  # images in a forward, where the measurement begins
TRY_SECONDS = 30  # that loading the images for a trial may take
REACH = 32  # times the batch, how far a straight line is believed: KoLeo grows with the square
BATCHES = [1, 2, 4, *range(8, (1 << 20) + 1, 8)]


@dataclass(frozen=True)
class Memory:
    """In bytes; a step takes about fixed + per_image x the value of `option`, the one that its user would change."""

    peak: int  # of a step as configured, but never compiled
    room: int  # to be had by this process
    total: int  # of the device or machine
    option: str  # run.micro_batch where it is set, else optim.batch_size; in the phase of highres its own
    fixed: float
    per_image: float  # 0 where more images take no more memory that can be told
    largest: int  # value of the option that fits, looked for up to REACH times the one now
    tried: bool  # a step of that size was taken; else it is a prediction


def measure_memory(rig: Rig, load_seconds: float) -> Memory | None:
    """Takes a few steps of growing size; None where the system does not tell. `load_seconds`: of one image, in one process.

    Raises torch.OutOfMemoryError if the step does not fit a GPU; a CPU's system would kill the process instead, so there
    the step is predicted from smaller ones first, and a UserError says how large it may be.
    """
    if not can_measure(rig.device):
        return None
    have, total = room(rig.device)
    batch, micro = rig.cfg.optim.batch_size, rig.cfg.run.micro_batch
    *smaller, forward = sizes_up_to(micro or batch)
    peaks: list[tuple[int, int]] = []  # (size, bytes), the smallest first: what a CPU's process has had it may keep
    with eager(rig.cfg):
        for n in smaller:
            images = n * (batch // forward)
            refuse_too_large(rig, peaks, images, have)
            peaks.append((images, step_peak(rig, images, n)))
        refuse_too_large(rig, peaks, batch, have)
        if micro:  # the batch is to stay, and only the parts to change
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
    """The largest micro-batch, or batch, that fits, no smaller than the one now; and whether it was tried."""
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
    """Nothing is compiled inside: each size of batch would be compiled anew, and for sizes that vary, more slowly."""
    return torch.compiler.set_stance("force_eager") if cfg.run.compile else nullcontext()


def sizes_up_to(n: int) -> list[int]:
    """n and its halves, smallest first: down to SMALLEST, and two of them at least if there are."""
    halves = [n >> i for i in range(n.bit_length())]
    return sorted(size for size in halves if size >= min(SMALLEST, max(1, n // 2)))


def line(peaks: list[tuple[int, int]]) -> tuple[float, float]:
    """Bytes fixed and for each image, by the last two peaks."""
    if len(peaks) < 2 or peaks[-1][1] <= peaks[-2][1]:
        return peaks[-1][1], 0.0
    (n0, bytes0), (n1, bytes1) = peaks[-2:]
    per_image = (bytes1 - bytes0) / (n1 - n0)
    return bytes1 - per_image * n1, per_image


def largest_that_fits(fixed: float, per_image: float, budget: float, choices: Iterable[int]) -> int:
    """0 if none does."""
    return max((n for n in choices if fixed + per_image * n <= budget), default=0)


def refuse_too_large(rig: Rig, peaks: list[tuple[int, int]], images: int, have: int) -> None:
    """On a CPU, by the steps so far: its system would not refuse but kill."""
    if rig.device.type != "cpu" or len(peaks) < 2:
        return
    fixed, per_image = line(peaks)
    if (need := fixed + per_image * images) > have:
        fits = largest_that_fits(fixed, per_image, HEADROOM * have, BATCHES)
        raise UserError(
            f"a step of {images} images would take about {need / 1e9:.0f} GB of memory, and {have / 1e9:.0f} GB are to be had: "
            f"set {rig.batch_option}={fits} or less, or a smaller {rig.micro_option}"
        )


def step_peak(rig: Rig, images: int, micro_batch: int) -> int:
    """The highest point of memory in a step on so many images, in micro-batches of that size."""
    optim, run = replace(rig.cfg.optim, batch_size=images), replace(rig.cfg.run, micro_batch=micro_batch)
    batch = next(rig.batches(0, replace(rig.cfg, optim=optim, run=run)))
    return peak_memory(lambda: rig.step(batch), rig.device)


def runs(rig: Rig, images: int, micro_batch: int) -> bool:
    """Whether a step of that size fits the GPU."""
    try:
        step_peak(rig, images, micro_batch)
    except torch.OutOfMemoryError:
        fits = False
    else:
        fits = True
    rig.optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return fits
