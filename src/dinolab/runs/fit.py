"""How many images fit into the memory of a device: peaks of real steps, a line through two of them, and run.micro_batch=auto."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace

import torch

from dinolab import parallel
from dinolab.data.samples import micro_batch
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.fields import AUTO
from dinolab.memory import can_measure, peak_memory, release_memory, room
from dinolab.options import Config
from dinolab.runs.build import fitting, micro_batch_sizes, out_of_memory
from dinolab.runs.rig import Rig
from dinolab.training.phases import Phase, plan_phases

HEADROOM = 0.9  # share of the available memory that a prediction may fill
SMALLEST = 8  # images in a forward with which a measurement begins
GROWTH = 4  # times the last size, at most, from one measured step to the next


def check_micro_batch(cfg: Config, source: Source) -> None:
    """Raises UserError where a step cannot be divided as the options say, or micro_batch=auto cannot be found on this device."""
    device = parallel.choose_device(cfg.run.device)
    for phase in plan_phases(cfg, len(source)):
        auto = phase.cfg.run.micro_batch == AUTO
        micro_batch(with_micro_batch(phase.cfg, 0) if auto else phase.cfg, parallel.world())
        if auto and not can_measure(device):
            raise UserError(f"run.micro_batch=auto: memory cannot be measured on {device} here; give a number")


def settle_micro_batch(cfg: Config, source: Source, began: Config | None = None) -> tuple[Config, list[str]]:
    """The configuration with a number for each micro_batch=auto, and for each a line for the log. All ranks call it together.

    Args:
        began: the configuration of the run that is resumed; its numbers are taken where they still divide a process's share, since
            results depend on them.

    Raises:
        UserError: not even the smallest size fits.
    """
    phases = plan_phases(cfg, len(source))
    before = [phase.cfg.run.micro_batch for phase in plan_phases(began, len(source))] if began else []
    numbers, said = [], []
    for place, phase in enumerate(phases):
        number, share = phase.cfg.run.micro_batch, micro_batch(with_micro_batch(phase.cfg, 0), parallel.world())
        if number == AUTO:
            kept = before[place] if place < len(before) else AUTO
            if kept != AUTO and share % (kept or share) == 0:
                number, why = kept or share, "as the run began"
            else:
                number, why = largest_micro_batch(phase, source, share)
            whole = ", its whole share of the batch" if number == share else ""
            option = "highres.micro_batch" if phase.first else "run.micro_batch"
            said.append(f"{option}=auto: {number} images at a time{whole}; {why}")
        numbers.append(number)
    if said:
        cfg = with_micro_batch(cfg, numbers[0])
        cfg.highres.micro_batch = numbers[1] if len(numbers) > 1 else cfg.highres.micro_batch
    return cfg, said


def with_micro_batch(cfg: Config, number: int) -> Config:
    cfg = deepcopy(cfg)
    cfg.run.micro_batch = number
    return cfg


def largest_micro_batch(phase: Phase, source: Source, share: int) -> tuple[int, str]:
    """Find the largest handy micro-batch whose step fits on every rank's device, by steps of growing size, and say what it takes.

    Nothing of the steps is kept: what is trained in them is thrown away, and its memory is returned.
    """
    cfg, device = phase.cfg, parallel.choose_device(phase.cfg.run.device)
    choices = [n for n in micro_batch_sizes(share) if n > 1] or [share]  # KoLeo needs two images
    size: int | None = ([n for n in choices if n <= SMALLEST][-2:] or choices)[0]
    release_memory(device)
    with fitting(with_micro_batch(cfg, choices[0])):
        rig = Rig(phase, source)
    have = min(parallel.collect(room(device)[0])) // (parallel.local_world() if device.type == "cpu" else 1)
    peaks: list[tuple[int, int]] = []
    with eager(cfg):
        while size:
            peak = peak_if_it_fits(rig, cfg.optim.batch_size, size)
            if not peaks and peak is not None:  # once more, now that the optimizer's state exists
                peak = peak_if_it_fits(rig, cfg.optim.batch_size, size)
            if peak is None and peaks and parallel.world() == 1:
                break
            if peak is None:  # of several ranks, the others wait for this one: all must end
                raise out_of_memory(with_micro_batch(cfg, size))
            peaks.append((size, max(parallel.collect(peak))))
            size = next_size(peaks, choices, HEADROOM * have)
    del rig
    release_memory(device)
    number, peak = max([p for p in peaks if p[1] <= HEADROOM * have], default=peaks[0])
    return number, f"a step takes {peak / 1e9:.1f} GB of the {have / 1e9:.1f} GB that are available"


def next_size(peaks: list[tuple[int, int]], choices: list[int], budget: float) -> int | None:
    """Return the next size to measure after these (size, bytes): larger, and predicted to fit; None if there is none."""
    last, peak = peaks[-1]
    larger = [n for n in choices if n > last]
    if len(peaks) == 1:  # no line yet: at worst, all memory grows with the size
        return next((n for n in larger[:1] if n <= GROWTH * last or n * peak / last <= budget), None)
    fits = largest_that_fits(*line(peaks), budget, larger)
    return max((n for n in larger if n <= min(fits, max(GROWTH * last, larger[0]))), default=None)


def eager(cfg: Config) -> AbstractContextManager:
    """Compile nothing inside: each size of batch would be compiled again, and code for varying sizes is slower."""
    return torch.compiler.set_stance("force_eager") if cfg.run.compile else nullcontext()


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


def step_peak(rig: Rig, images: int, micro: int) -> int:
    """Do a step on this number of images, in micro-batches of this size, and return its peak of memory in bytes."""
    optim, run = replace(rig.cfg.optim, batch_size=images), replace(rig.cfg.run, micro_batch=micro)
    batch = next(rig.batches(0, replace(rig.cfg, optim=optim, run=run)))
    return peak_memory(lambda: rig.step(batch), rig.device)


def peak_if_it_fits(rig: Rig, images: int, micro: int) -> int | None:
    """Return the peak of such a step, or None if it does not fit on the GPU."""
    try:
        return step_peak(rig, images, micro)
    except torch.OutOfMemoryError:
        pass  # its traceback keeps the step's tensors alive until here
    rig.optimizer.zero_grad(set_to_none=True)
    release_memory(rig.device)
    return None
