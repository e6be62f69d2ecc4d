"""How long a call takes on a device that works by itself."""

import time
from collections.abc import Callable

import torch

WARM_UP = {"cuda": 3, "mps": 3, "cpu": 1}  # calls before anything is measured


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds_of(fn: Callable[[], object], device: torch.device) -> float:
    """Of one call, from an idle device to an idle device."""
    synchronise(device)
    began = time.perf_counter()
    fn()
    synchronise(device)
    return time.perf_counter() - began


def describe(device: torch.device) -> str:
    """A GPU's name; a CPU with the number of threads that compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type
