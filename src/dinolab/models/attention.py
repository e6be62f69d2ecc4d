"""Attention over packed sequences: the tokens of all crops, of every size, in one sequence.

Shapes: T tokens of all crops together, N heads, H width of a head, D = N x H.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = ("flash", "sdpa", "math")


@dataclass(frozen=True)
class Packing:
    """Where one crop ends in a packed sequence: runs of equally long crops, as host integers."""

    runs: tuple[tuple[int, int], ...]  # (number of crops, tokens of each), e.g. ((2B, 197), (8B, 37))

    @cached_property
    def lengths(self) -> list[int]:
        return [length for n, length in self.runs for _ in range(n)]

    @property
    def tokens(self) -> int:
        return sum(n * length for n, length in self.runs)

    @property
    def max_len(self) -> int:
        return max(length for _, length in self.runs)

    def cu_seqlens(self, device: torch.device) -> Tensor:
        """Start of every crop and the end of the last, int32 (crops + 1,), as FlashAttention wants them."""
        if device not in self._cu_seqlens:
            starts = torch.tensor([0, *self.lengths], dtype=torch.int64).cumsum(0)
            self._cu_seqlens[device] = starts.to(torch.int32).to(device, non_blocking=True)
        return self._cu_seqlens[device]

    @cached_property
    def _cu_seqlens(self) -> dict[torch.device, Tensor]:
        return {}

    def split(self, x_TD: Tensor) -> list[Tensor]:
        """The tokens of each run, (n, length, ...)."""
        parts = x_TD.split([n * length for n, length in self.runs])
        return [part.unflatten(0, run) for part, run in zip(parts, self.runs)]


def choose_backend(name: str, device: torch.device) -> str:
    """The kernel that "auto" stands for on a device."""
    if name != "auto":
        return name
    return "flash" if device.type == "cuda" else "sdpa"


def attention(q_TNH: Tensor, k_TNH: Tensor, v_TNH: Tensor, packing: Packing, backend: str = "sdpa") -> Tensor:
    """Softmax attention within each crop of a packed sequence, (T, N, H). The only place that chooses a kernel.

    `flash`: on CUDA one variable-length FlashAttention call for all crops (half precision; fp32 inputs fall to SDPA),
    elsewhere SDPA's flash kernel, run by run. `sdpa`: one fused call a run, PyTorch chooses the kernel. `math`: the plain formula.
    """
    if backend == "flash" and q_TNH.is_cuda and q_TNH.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        cu = packing.cu_seqlens(q_TNH.device)
        return varlen_attn(q_TNH, k_TNH, v_TNH, cu, cu, packing.max_len, packing.max_len)  # type: ignore[return-value]
    kernels: dict[str, Callable[..., Tensor]] = {"flash": _flash, "sdpa": F.scaled_dot_product_attention, "math": _math}
    outs = []
    for q, k, v in zip(packing.split(q_TNH), packing.split(k_TNH), packing.split(v_TNH)):
        out = kernels[backend](q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))  # (n, N, length, H)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.is_cuda:  # reached in fp32 alone, which the CUDA flash kernel does not take
        return F.scaled_dot_product_attention(q, k, v)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(H)) over the last dimension, computed in full: (..., length, length)."""
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)


def _math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention_weights(q, k) @ v
