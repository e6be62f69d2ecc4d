"""How everything is timed: the variants of a comparison in turn, round by round, each waited for.

Clocks drift with heat and other users; variants that take turns drift alike, and their ratios are taken within each round.
"""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dinolab.errors import UserError, reason
from dinolab.memory import STATUS, can_measure, entry, peak_memory
from dinolab.parallel import choose_device, refuse_many
from dinolab.precision import choose_precision
from dinolab.timing import WARM_UP, describe, synchronise

ROUNDS = 3  # timed at least
MATMUL_SIDE = (512, 8192)  # of the square matrices that a device's speed is measured with, and
MATMUL_SECONDS = 0.1  # how long one product should take at least

Name = TypeVar("Name", bound=Hashable)
Row = dict[str, Any]  # one line of the table and of the JSON


@dataclass(frozen=True)
class Setting:
    """On what, in what and how long is measured."""

    device: torch.device
    autocast: torch.dtype | None
    seconds: float  # for each variant, in rounds

    @property
    def dtype(self) -> torch.dtype:
        """What the matrix products compute in."""
        return self.autocast or torch.float32

    @property
    def words(self) -> str:
        return f"{'bf16' if self.autocast else 'fp32'} on {describe(self.device)}"


def setting(device_option: str, precision: str, seconds: float) -> Setting:
    """From the command line's words. Raises UserError for a device that is not to be had."""
    refuse_many("dinolab bench")
    device = choose_device(device_option, "--device ")
    return Setting(device, choose_precision(precision, device), seconds)


@dataclass
class Timing:
    """What was measured of one variant."""

    seconds: list[float] = field(default_factory=list)  # of one call; an entry a round
    peak_memory: int | None = None  # bytes above what was there before; None where it cannot be told
    failure: str = ""  # why there are no figures: out of memory, or a combination that does not exist

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def times_as_fast_as(self, other: "Timing") -> float:
        """Median over the rounds of the other's time over one's own, of the same round."""
        return statistics.median(theirs / own for theirs, own in zip(other.seconds, self.seconds))

    def row(self, images: int) -> Row:
        """The figures of a call that treats so many images."""
        if self.failure:
            return {"note": self.failure}
        return {
            "ms": 1e3 * self.median,
            "ms_quartiles": [1e3 * q for q in self.quartiles],
            "images_per_s": images / self.median,
            "peak_memory_mb": None if self.peak_memory is None else self.peak_memory / 1e6,
            "rounds": len(self.seconds),
        }


def measure(
    variants: Mapping[Name, Callable[[], object]], device: torch.device, seconds: float, before: int | None = None
) -> dict[Name, Timing]:
    """Time the variants in turn, round by round, until each has had `seconds` on average, and three rounds at least.

    Before, each is called to warm up, and once more for its peak of memory. A variant that runs out of memory, or says that it
    cannot run (RuntimeError, UserError), drops out, with the reason in its Timing.

    Args:
        before: bytes in use before what the variants need was built, from `memory_in_use`.
    """
    timings = {name: Timing() for name in variants}

    def each(do: Callable[[Callable[[], object], Timing], None]) -> None:
        for name, fn in variants.items():
            if not timings[name].failure:
                try:
                    do(fn, timings[name])
                except (RuntimeError, UserError) as error:
                    timings[name] = Timing(failure=reason(error))
                if timings[name].failure:  # only here, where the error no longer holds its tensors
                    release_memory(device)

    def prepare(fn: Callable[[], object], timing: Timing) -> None:
        for _ in range(WARM_UP[device.type]):
            fn()
        release_memory(device)
        if before is None:
            fn()
        else:
            timing.peak_memory = max(0, peak_memory(fn, device) - before)

    def time_once(fn: Callable[[], object], timing: Timing) -> None:
        synchronise(device)
        began = time.perf_counter()
        fn()
        synchronise(device)
        timing.seconds.append(time.perf_counter() - began)

    each(prepare)
    began, rounds = time.perf_counter(), 0
    while rounds < ROUNDS or time.perf_counter() - began < seconds * len(variants):
        each(time_once)
        rounds += 1
        if all(timing.failure for timing in timings.values()):
            break
    return timings


def memory_in_use(device: torch.device) -> int | None:
    """Bytes: of tensors on CUDA, resident memory of the process on a CPU; None where peaks cannot be told."""
    if not can_measure(device):
        return None
    load_libraries(device)
    release_memory(device)
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else entry(STATUS, "VmRSS")


def load_libraries(device: torch.device) -> None:
    """A small network, forward and backward: what its first call loads would count as the first variant's memory."""
    layers = (nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(2), nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU())
    net = nn.Sequential(*layers).to(device)
    net(torch.randn(8, 3, 32, 32, device=device)).sum().backward()


def release_memory(device: torch.device) -> None:
    """Hand what is free in caches back, so that one variant's leftovers do not count as another's."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif STATUS.exists():  # Linux
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):  # glibc
            libc.malloc_trim(0)


def matmul(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Tensor], float]:
    """A product of two square matrices, as a variant for `measure`, and its floating-point operations.

    What of its speed a model reaches tells how well the device is used; it is the highest speed met in practice.
    """
    side, largest = MATMUL_SIDE
    product, seconds = square_product(side, device, dtype)
    while seconds < MATMUL_SECONDS and side < largest:
        side *= 2
        product, seconds = square_product(side, device, dtype)
    return product, 2 * side**3


def square_product(side: int, device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Tensor], float]:
    """The product, and how long it takes once warm."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    a @ b
    synchronise(device)
    began = time.perf_counter()
    a @ b
    synchronise(device)
    return lambda: a @ b, time.perf_counter() - began


def share_of_matmul(timing: Timing, flops: float, matmul_timing: Timing, matmul_flops: float) -> float | None:
    """The model's operations a second over those of the matmul of the same rounds (MFU against the measured matmul)."""
    if timing.failure or matmul_timing.failure:
        return None
    return timing.times_as_fast_as(matmul_timing) * flops / matmul_flops
