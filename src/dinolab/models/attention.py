"""Attention over packed sequences, which hold the tokens of all crops, of every size, one after another.

Shapes: T tokens of all crops together, N heads, H width of a head, D = N x H.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dinolab.precision import products_are_quick

BACKENDS = ("flash", "sdpa", "math", "mixed")
SHORT = 400  # tokens of a crop up to which the plain formula is quicker on a CPU
Runs = tuple[tuple[int, int], ...]  # (number of crops, tokens of each), e.g. ((2B, 197), (8B, 37))


@dataclass(frozen=True, eq=False)
class Packing:
    """Which tokens of a packed sequence belong to which crop. `pack_runs` makes it."""

    runs: Runs
    # int32 (crops + 1,): the start of every crop and the end of the last, as FlashAttention takes them
    cu_seqlens: Tensor

    @property
    def tokens(self) -> int:
        """Number of tokens in the sequence, T."""
        return sum(n * length for n, length in self.runs)

    @property
    def max_len(self) -> int:
        """Number of tokens of the longest crop."""
        return max(length for _, length in self.runs)

    def split(self, x_TD: Tensor) -> list[Tensor]:
        """Splits a sequence (T, ...) into its runs, each (crops, tokens of each, ...)."""
        parts = x_TD.split([n * length for n, length in self.runs])
        return [part.unflatten(0, run) for part, run in zip(parts, self.runs)]


@lru_cache(maxsize=256)  # the runs of a training step do not change
def pack_runs(runs: Runs, device: torch.device) -> Packing:
    """The packing of runs of equally long crops."""
    ends = accumulate(length for n, length in runs for _ in range(n))
    with torch.inference_mode(False):  # or autograd refuses it later
        return Packing(runs, torch.tensor([0, *ends], dtype=torch.int32, device=device))


def choose_backend(name: str, device: torch.device) -> str:
    """Replaces "auto" by the fastest backend of a device: "mixed" on CPUs, else "sdpa" (measured in docs/speed.md)."""
    if name != "auto":
        return name
    return "mixed" if device.type == "cpu" else "sdpa"


def attention(q_TNH: Tensor, k_TNH: Tensor, v_TNH: Tensor, packing: Packing, backend: str = "sdpa") -> Tensor:
    """Computes softmax attention within each crop of a packed sequence. This is the only place that chooses a kernel.

    Args:
        q_TNH, k_TNH, v_TNH: queries, keys and values.
        packing: of the sequence.
        backend: one of BACKENDS.
            "flash" makes one variable-length call for all crops on CUDA. PyTorch runs FlashAttention or, where it is faster
            (Hopper, more than 128 tokens a crop), the kernel of cuDNN. On the CPU it calls SDPA's flash kernel once a run.
            Inputs that FlashAttention does not take (fp32 on CUDA, H above 256 or not a multiple of 8, MPS) are left to "sdpa".
            "sdpa" makes one fused call a run, for which PyTorch chooses the kernel. "math" is the plain formula.
            "mixed" takes "math" for the runs of short crops on a CPU with quick matrix products, and "sdpa" for the others:
            the plain formula holds all weights (crops x N x length^2), but it is two large products for each head, while the
            fused kernel makes many small ones.

    Returns:
        (T, N, H)
    """
    if backend == "flash" and q_TNH.is_cuda and fits_flash(q_TNH):
        from torch.nn.attention.varlen import varlen_attn

        cu = packing.cu_seqlens
        return varlen_attn(q_TNH, k_TNH, v_TNH, cu, cu, packing.max_len, packing.max_len)  # type: ignore[return-value]
    kernels: dict[str, Callable[..., Tensor]] = {
        "flash": _flash,
        "sdpa": F.scaled_dot_product_attention,
        "math": _math,
        "mixed": _mixed,
    }
    outs = []
    for q, k, v in zip(packing.split(q_TNH), packing.split(k_TNH), packing.split(v_TNH)):
        out = kernels[backend](q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))  # (n, N, length, H)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def fits_flash(q: Tensor) -> bool:
    """Whether FlashAttention takes queries of this dtype and width."""
    width = q.shape[-1]
    return q.dtype in (torch.float16, torch.bfloat16) and width % 8 == 0 and width <= 256


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(H)) of queries and keys (..., length, H), in full: (..., length, length)."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)


def _math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention_weights(q, k) @ v


def _mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    plain = q.device.type == "cpu" and q.shape[-2] <= SHORT and products_are_quick(q.dtype)
    return _math(q, k, v) if plain else F.scaled_dot_product_attention(q, k, v)
