"""How much memory a piece of work takes at its highest point, and how much there is. Bytes throughout."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR_REFS, MEMINFO = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")  # Linux
LIMITS = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]  # of a container


def can_measure(device: torch.device) -> bool:
    return device.type == "cuda" or (device.type == "cpu" and os.access(CLEAR_REFS, os.W_OK))


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """The highest point of `work`: of all tensors on CUDA, of this process's resident memory on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    CLEAR_REFS.write_text("5")  # sets VmHWM, the highest point so far, back
    work()
    return entry(STATUS, "VmHWM")


def room(device: torch.device) -> tuple[int, int]:
    """What this process may have at most, that is what it has and what is free; and what the device or machine has in all."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device), total
    total = min(
        [
            entry(MEMINFO, "MemTotal"),
            *(int(f.read_text()) for f in LIMITS if f.exists() and f.read_text().strip() != "max"),
        ]
    )
    return min(
        total, entry(MEMINFO, "MemAvailable") + entry(STATUS, "VmRSS")
    ), total  # pages of files may count in both


def entry(file: Path, name: str) -> int:
    """A line `name: N kB` of a file in /proc."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
