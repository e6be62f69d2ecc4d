"""Timing for all benchmarks: the variants of a comparison take turns, round by round.

A machine becomes slower with heat and with other users. Variants that take turns are slowed down alike, and their ratios are
computed within each round.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dinolab.errors import OUT_OF_MEMORY, UserError, lacking, reason
from dinolab.memory import STATUS, can_measure, entry, peak_memory, release_memory
from dinolab.parallel import choose_device, refuse_many
from dinolab.precision import choose_precision, quick_products
from dinolab.timing import WARM_UP, describe, synchronise

ROUNDS = 3  # timed, at least
MATMUL_SIDE = (512, 8192)  # sides of the square matrices that measure a device's speed, smallest and largest
MATMUL_SECONDS = 0.1  # that one product should take, at least
# Parts of the messages of RuntimeErrors by which PyTorch reports that this machine cannot run something: it has no exceptions of
# their own for an attention kernel that does not exist and for a missing Triton.
CANNOT_RUN = (
    "No available kernel",
    "Cannot find a working triton installation",
    "too old to be supported by the triton GPU compiler",
)

Name = TypeVar("Name", bound=Hashable)
Row = dict[str, Any]  # one line of the table and of the JSON


@dataclass(frozen=True)
class Setting:
    """The device, the precision and the time of a measurement."""

    device: torch.device
    autocast: torch.dtype | None  # None computes in float32
    seconds: float  # for each variant, in all rounds together

    @property
    def dtype(self) -> torch.dtype:
        """The data type in which matrix products are computed."""
        return self.autocast or torch.float32

    @property
    def words(self) -> str:
        """Precision and device for a title, such as "bf16 on NVIDIA H100"."""
        return f"{'bf16' if self.autocast else 'fp32'} on {describe(self.device)}"


def setting(device_option: str, precision: str, seconds: float) -> Setting:
    """Choose device and precision by the command line's options. Raises UserError for a device that is not available."""
    refuse_many("dinolab bench")
    device = choose_device(device_option, "device=")
    return Setting(device, choose_precision(precision, device), seconds)


@dataclass
class Timing:
    """The measurements of one variant."""

    seconds: list[float] = field(default_factory=list)  # of one call, in each round
    peak_memory: int | None = None  # bytes above those in use before; None where it cannot be measured
    failure: str = ""  # why there are no measurements: out of memory, or a combination that does not exist

    @property
    def median(self) -> float:
        """Seconds of a call, median over the rounds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of the seconds of a call."""
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def times_as_fast_as(self, other: "Timing") -> float:
        """Compute the other variant's time over this one's within each round, and return the median over the rounds."""
        return statistics.median(theirs / own for theirs, own in zip(other.seconds, self.seconds))

    def row(self, images: int) -> Row:
        """Return the columns of the table, for a call that processes this number of images."""
        if self.failure:
            return {"note": self.failure}
        return {
            "ms": 1e3 * self.median,
            "ms_quartiles": [1e3 * q for q in self.quartiles],
            "images_per_s": images / self.median,
            "peak_memory_mb": None if self.peak_memory is None else self.peak_memory / 1e6,
            "rounds": len(self.seconds),
        }


@quick_products()
def measure(
    variants: Mapping[Name, Callable[[], object]], device: torch.device, seconds: float, before: int | None = None
) -> dict[Name, Timing]:
    """Time the variants in turn, round by round.

    Each variant is first called to warm up, and once more to measure its peak of memory. A variant that this machine cannot run
    (see `why_not`) gets the reason in its Timing and is not called again; any other exception is a bug and is raised.

    Args:
        variants: functions by name.
        device: on which they compute.
        seconds: for each variant on average; there are three rounds at least.
        before: bytes in use before the variants' networks and inputs were built, from `memory_in_use`. Without it no memory is
            measured.
    """
    timings = {name: Timing() for name in variants}

    def each(do: Callable[[Callable[[], object], Timing], None]) -> None:
        for name, fn in variants.items():
            if not timings[name].failure:
                try:
                    do(fn, timings[name])
                except (RuntimeError, UserError) as error:
                    timings[name] = Timing(failure=why_not(error))
                    if not timings[name].failure:
                        raise
                if timings[name].failure:  # not before: until here the exception keeps its tensors alive
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


def why_not(error: Exception) -> str:
    """Return in one line why this machine cannot run a variant; "" if the exception means that the program is wrong.

    Reasons are too little memory, an operator or kernel that the device does not have, and UserErrors such as a missing compiler.
    """
    if isinstance(error, UserError | NotImplementedError) or lacking(error) == OUT_OF_MEMORY:
        return reason(error)
    return next((line for line in str(error).splitlines() if any(part in line for part in CANNOT_RUN)), "")


def memory_in_use(device: torch.device) -> int | None:
    """Return the bytes of all tensors on CUDA, or of the process on a CPU; None where peaks cannot be measured."""
    if not can_measure(device):
        return None
    load_libraries(device)
    release_memory(device)
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else entry(STATUS, "VmRSS")


def load_libraries(device: torch.device) -> None:
    """Run a small network forward and backward, so that libraries loaded at the first call do not count as a variant's memory."""
    layers = (nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(2), nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU())
    net = nn.Sequential(*layers).to(device)
    net(torch.randn(8, 3, 32, 32, device=device)).sum().backward()


def matmul(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Tensor], float]:
    """Return a product of two square matrices, as a variant for `measure`, and its floating-point operations.

    Its speed is the highest that a device reaches in practice. The share of it that a model reaches shows how well the model uses
    the device.
    """
    side, largest = MATMUL_SIDE
    product, seconds = square_product(side, device, dtype)
    while seconds < MATMUL_SECONDS and side < largest:
        side *= 2
        product, seconds = square_product(side, device, dtype)
    return product, 2 * side**3


def square_product(side: int, device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Tensor], float]:
    """Return the product, and its seconds after a first call."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    a @ b
    synchronise(device)
    began = time.perf_counter()
    a @ b
    synchronise(device)
    return lambda: a @ b, time.perf_counter() - began


def share_of_matmul(timing: Timing, flops: float, matmul_timing: Timing, matmul_flops: float) -> float | None:
    """Compute the model's operations a second over the matmul's in the same rounds; None where one of them failed."""
    if timing.failure or matmul_timing.failure:
        return None
    return timing.times_as_fast_as(matmul_timing) * flops / matmul_flops
