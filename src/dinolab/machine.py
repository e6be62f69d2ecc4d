"""The cores that this process may use, and the software and hardware that a result may depend on."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def cores() -> int:
    """Return the number of CPU cores that this process may run on; on a shared machine it may be less than all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loaders(device: str, processes: int = 1) -> int:
    """Return how many processes should load images, for each process that computes.

    With a GPU all cores load images; without one, most of the cores compute.

    Args:
        device: "cpu", "cuda" or "mps".
        processes: number of processes on this machine that compute.
    """
    own = cores() // processes
    return max(1, own // 4) if device == "cpu" else min(16, own)


def environment() -> dict[str, Any]:
    """Return the versions of the software, the machine, and the time, as recorded with every result."""
    import torch  # not at the top: the rest of this file works without it

    packages = [
        "dinolab",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "pyyaml",
        "safetensors",
        "scikit-learn",
        "matplotlib",
        "rich",
    ]
    found = {"torch": str(torch.__version__)}  # from the module, whose version names the build too
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": torch.cpu.get_capabilities().get("cpu_name"),
        "cores": os.cpu_count(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": found,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
