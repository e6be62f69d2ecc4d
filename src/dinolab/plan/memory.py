"""The largest batch that fits into memory: a line through the peaks at two sizes, and on a GPU a trial of the prediction."""

from dataclasses import dataclass

from dinolab.errors import UserError
from dinolab.memory import can_measure, room
from dinolab.runs.build import micro_batch_sizes
from dinolab.runs.fit import HEADROOM, SMALLEST, eager, largest_that_fits, line, peak_if_it_fits, step_peak
from dinolab.runs.rig import Rig

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
    largest: int  # greatest value of the option that fits, of those up to `searched`
    searched: int  # greatest value that was considered: the whole share of the batch, or REACH times the batch
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
        choices = micro_batch_sizes(batch) if micro else [n for n in BATCHES if n <= REACH * batch]
        largest, tried = find_largest(rig, forward, fixed, per_image, have, load_seconds, choices)
    option = rig.micro_option if micro else rig.batch_option
    return Memory(peak, have, total, option, fixed, per_image, largest, max(forward, choices[-1]), tried)


def find_largest(
    rig: Rig, now: int, fixed: float, per_image: float, have: int, load_seconds: float, choices: list[int]
) -> tuple[int, bool]:
    """Return the largest choice of a micro-batch, or batch, that fits, no smaller than the present one; and whether it was tried."""
    batch, micro = rig.cfg.optim.batch_size, rig.cfg.run.micro_batch
    budget = HEADROOM * have
    while True:
        largest = max(now, largest_that_fits(fixed, per_image, budget, choices)) if per_image else now
        if largest == now:
            return largest, True
        if rig.device.type == "cpu" or largest * load_seconds > TRY_SECONDS:
            return largest, False
        if peak_if_it_fits(rig, batch if micro else largest, largest) is not None:
            return largest, True
        budget *= HEADROOM


def sizes_up_to(n: int) -> list[int]:
    """Return n, its half, its quarter and so on, smallest first: down to SMALLEST, but at least two sizes if n is above 1."""
    halves = [n >> i for i in range(n.bit_length())]
    return sorted(size for size in halves if size >= min(SMALLEST, max(1, n // 2)))


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
