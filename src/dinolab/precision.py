"""The number type that networks compute in, chosen and switched on in one place."""

from contextlib import AbstractContextManager

import torch


def choose_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """The type for autocast, or None for float32 throughout.

    Args:
        precision: "fp32", "bf16", or "auto": bf16 on a GPU that computes in it at full speed.
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
        precision = "bf16" if fast else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Inside the block, matrix products and convolutions compute in `dtype`; None changes nothing."""
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
