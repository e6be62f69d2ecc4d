"""The number type that networks compute in, chosen and switched on in one place."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache

import torch
from torch import Tensor

FASTER = 1.2  # times as fast as fp32 that bf16 must be on a CPU, to be worth its rounding
EXACT = 1e-5  # relative error of a product; bf16 has about 1e-3


def choose_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """The type for autocast, or None for float32 throughout.

    Args:
        precision: "fp32", "bf16", or "auto": bf16 on a device that computes in it at full speed.
    """
    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and _is_fast_in_bf16(device)) else None


def _is_fast_in_bf16(device: torch.device) -> bool:
    if device.type == "cpu":
        return cpu_is_fast_in_bf16()
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def name_of(dtype: torch.dtype | None) -> str:
    """The name of what `choose_precision` returns: "bf16" or "fp32"."""
    return "fp32" if dtype is None else "bf16"


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Inside the block, matrix products and convolutions compute in `dtype`; None changes nothing."""
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


@contextmanager
def quick_products() -> Iterator[None]:
    """Inside the block, oneDNN computes float32 matrix products on CPUs where it is both exact and quick.

    By default PyTorch calls MKL for them, which on AMD's processors does not use AVX-512 and takes twice as long. The only switch
    that PyTorch has for this is the permission to round to bf16, of which oneDNN makes no use without AMX. It also serves as a
    decorator, `@quick_products()`; a function whose products have gradients must contain the backward pass as well.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    if onednn_is_exact():
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def products_are_quick(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes products of matrices of this type here, so that they are much quicker than by default."""
    if dtype == torch.float32:
        return torch.backends.mkldnn.matmul.fp32_precision == "bf16" and onednn_is_exact()  # type: ignore[attr-defined]
    return dtype == torch.bfloat16 and cpu_is_fast_in_bf16()


@cache
def onednn_is_exact() -> bool:
    """Whether oneDNN keeps float32 products in float32 on this CPU although it may round them, and has AVX-512 for them."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    a, b = _factors()
    expected = a.double() @ b.double()  # autocast leaves float64 alone
    matmul.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", enabled=False):
            error = ((a @ b) - expected).norm() / expected.norm()
    finally:
        matmul.fp32_precision = before
    return error.item() < EXACT


@cache
def cpu_is_fast_in_bf16() -> bool:
    """Whether oneDNN takes bf16 on this CPU, and a short trial shows that its products take less time than those in float32."""
    if not has_bf16(torch.device("cpu")):
        return False
    a, b = _factors()
    halves = a.bfloat16(), b.bfloat16()

    def seconds(product: Callable[[], Tensor]) -> float:
        began = time.thread_time()  # other work on the machine does not count
        product()
        return time.thread_time() - began

    with quick_products(), torch.inference_mode(), torch.autocast("cpu", enabled=False), one_thread():
        pairs = [(seconds(lambda: a @ b), seconds(lambda: halves[0] @ halves[1])) for _ in range(12)]
    in_fp32, in_bf16 = (min(times) for times in zip(*pairs))
    return in_fp32 > FASTER * in_bf16


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the block, PyTorch computes in the calling thread alone, so that no time goes by in waiting for threads without a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16 itself; emulation has a hundredth of the speed."""
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return device.type == "mps" or torch.cuda.is_bf16_supported(including_emulation=False)


def _factors() -> tuple[Tensor, Tensor]:
    """Two float32 matrices on the CPU for trials, whatever the caller's defaults are; they are as large as in a small ViT."""
    g = torch.Generator().manual_seed(0)  # the caller's draws stay as they are
    a, b = (torch.randn(*shape, generator=g, dtype=torch.float32, device="cpu") for shape in ((512, 384), (384, 1536)))
    return a, b
