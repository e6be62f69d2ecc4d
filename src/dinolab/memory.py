"""The peak memory of a piece of work, and the memory available for it. All numbers are bytes."""

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR_REFS, MEMINFO = (
    Path("/proc/self/status"),
    Path("/proc/self/clear_refs"),
    Path("/proc/meminfo"),
)  # of Linux
LIMITS = [
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
]  # of a container; the file contains "max" where there is none


def can_measure(device: torch.device) -> bool:
    """Return whether `peak_memory` works on this device and system."""
    return device.type == "cuda" or (device.type == "cpu" and os.access(CLEAR_REFS, os.W_OK))


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """Do the work, and return the peak of all tensors' memory on CUDA, or of this process's resident memory on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    CLEAR_REFS.write_text("5")  # resets VmHWM, the peak so far
    work()
    return entry(STATUS, "VmHWM")


def room(device: torch.device) -> tuple[int, int]:
    """Return the memory that this process can use at most (its own and the free memory), and the total of device or machine."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device), total
    total = min(
        [
            entry(MEMINFO, "MemTotal"),
            *(int(f.read_text()) for f in LIMITS if f.exists() and f.read_text().strip() != "max"),
        ]
    )
    usable = entry(MEMINFO, "MemAvailable") + entry(STATUS, "VmRSS")  # pages of files may count in both
    return min(total, usable), total


def release_memory(device: torch.device) -> None:
    """Return cached memory to the system, so that what is done next does not have it counted as its own."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif STATUS.exists():  # Linux
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):  # glibc
            libc.malloc_trim(0)


def entry(file: Path, name: str) -> int:
    """Read a line `name: N kB` of a file in /proc, and return N in bytes."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
