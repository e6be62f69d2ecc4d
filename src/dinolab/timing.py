"""The time of a call on a device that computes while Python goes on."""

import time
from collections.abc import Callable

import torch

WARM_UP = {"cuda": 3, "mps": 3, "cpu": 1}  # calls before the first that is measured


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all work that was submitted to it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds_of(fn: Callable[[], object], device: torch.device) -> float:
    """Measure one call in seconds; the device is idle before and after it."""
    synchronise(device)
    began = time.perf_counter()
    fn()
    synchronise(device)
    return time.perf_counter() - began


def describe(device: torch.device) -> str:
    """Return a GPU's name, or "cpu" with the number of threads that compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type
