"""What this process may use of the machine, and what is installed on it."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def cores() -> int:
    """CPU cores that it may run on: on a shared machine fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loaders(device: str, processes: int = 1) -> int:
    """Processes that load images, for each of so many that compute: on a GPU the cores load; on a CPU most of them compute."""
    own = cores() // processes
    return max(1, own // 4) if device == "cpu" else min(16, own)


def environment() -> dict[str, Any]:
    """Versions of everything that a result may depend on."""
    import torch  # here: the rest of this file answers without it

    packages = [
        "dinolab",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "omegaconf",
        "safetensors",
        "scikit-learn",
        "matplotlib",
        "rich",
    ]
    found = {"torch": str(torch.__version__)}  # with the build, which its distribution does not name
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
