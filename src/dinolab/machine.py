"""What this process may use of the machine."""

import os


def cores() -> int:
    """CPU cores that it may run on: on a shared machine fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loaders(device: str, processes: int = 1) -> int:
    """Processes that load images, for each of so many that compute: on a GPU the cores load; on a CPU most of them compute."""
    own = cores() // processes
    return max(1, own // 4) if device == "cpu" else min(16, own)
