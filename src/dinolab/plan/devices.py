"""Devices that a run can be forecast for on paper: figures of their makers' data sheets."""

import re
from dataclasses import dataclass

from dinolab.errors import UserError

MOST = 100_000  # devices of a machine


@dataclass(frozen=True)
class Device:
    """Figures of one device. FLOP/s are dense: data sheets often print twice as many, for sparse matrices."""

    bf16: float | None  # FLOP/s of matrix products with sums in fp32; None without hardware for bf16
    fp32: float  # FLOP/s, without TF32
    memory: float  # bytes
    bandwidth: float  # bytes a second


# by lower-case name: as it is written, and its figures
DEVICES = {
    # NVIDIA T4 data sheet (2019), 16 GB, PCIe; its tensor cores take fp16 and not bf16
    "t4": ("T4", Device(None, 8.1e12, 16e9, 320e9)),
    # NVIDIA L4 data sheet (2023), 24 GB, PCIe: bf16 242 TFLOP/s with sparsity
    "l4": ("L4", Device(121e12, 30.3e12, 24e9, 300e9)),
    # NVIDIA Ada GPU architecture white paper, appendix A, GeForce RTX 4090: bf16 with sums in fp32
    "4090": ("4090", Device(165.2e12, 82.6e12, 24e9, 1008e9)),
    # NVIDIA A100 data sheet (2021), 80 GB, SXM
    "a100": ("A100", Device(312e12, 19.5e12, 80e9, 2039e9)),
    # NVIDIA H100 data sheet (2023), 80 GB, SXM: bf16 1,979 TFLOP/s with sparsity
    "h100": ("H100", Device(989e12, 67e12, 80e9, 3350e9)),
    # NVIDIA H200 data sheet (2024), 141 GB, SXM: the processor of the H100 with more memory
    "h200": ("H200", Device(989e12, 67e12, 141e9, 4800e9)),
}


def parse_machine(text: str) -> tuple[int, str, Device]:
    """Return the number, the name and the figures of "8xH100" or "H100". Raises UserError with the known devices."""
    match = re.fullmatch(r"(?:(\d{1,6})\s*x\s*)?([a-z0-9]+)", text.strip().lower(), re.ASCII)
    number = int(match[1] or 1) if match else 0
    if not match or match[2] not in DEVICES or not 1 <= number <= MOST:
        known = ", ".join(name for name, _ in DEVICES.values())
        raise UserError(f"on={text[:80]}: write a number and a device, such as 8xH100; known devices are {known}")
    return number, *DEVICES[match[2]]
