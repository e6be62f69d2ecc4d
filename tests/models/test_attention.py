"""Attention within the crops of a packed sequence, by every kernel."""

from functools import partial

import pytest
import torch

from dinolab.models.attention import BACKENDS, attention, choose_backend, pack_runs


def test_attention_equals_a_dense_block_diagonal_mask() -> None:
    packing = pack_runs(((3, 7), (2, 4)), torch.device("cpu"))
    q, k, v = (torch.randn(packing.tokens, 2, 8, dtype=torch.float64) for _ in range(3))
    owner = torch.repeat_interleave(torch.arange(5), torch.tensor([7, 7, 7, 4, 4]))
    scores = torch.einsum("qnh,knh->nqk", q, k) / 8**0.5
    scores = scores.masked_fill(owner[:, None] != owner[None, :], -torch.inf)
    expected = torch.einsum("nqk,knh->qnh", scores.softmax(-1), v)
    for backend in BACKENDS:
        torch.testing.assert_close(attention(q, k, v, packing, backend), expected, atol=1e-12, rtol=0)
    assert packing.cu_seqlens.tolist() == [0, 7, 14, 21, 25, 29]
    assert packing.max_len == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="variable-length FlashAttention needs a GPU")
@pytest.mark.parametrize(
    "runs", [((6, 197), (20, 37)), ((20, 37),), ((3, 192), (2, 64))]
)  # PyTorch's kernel depends on them
def test_flash_on_a_gpu_equals_the_formula(runs: tuple[tuple[int, int], ...]) -> None:
    packing = pack_runs(runs, torch.device("cuda"))
    qkv = torch.randn(
        packing.tokens, 3, 3, 64, device="cuda", requires_grad=True
    )  # not contiguous when parted: as in the network
    fast = attention(*qkv.bfloat16().unbind(1), packing, "flash").float()
    plain = attention(*qkv.unbind(1), packing, "math")
    torch.testing.assert_close(fast, plain, atol=3e-2, rtol=3e-2)
    weight = torch.randn_like(plain)
    (ours,), (theirs,) = (torch.autograd.grad(out, qkv, weight) for out in (fast, plain))
    size = partial(torch.linalg.vector_norm, dim=(0, 2, 3))  # of queries, keys and values
    error = size(ours - theirs) / size(theirs)
    assert error.max().item() < 3e-2


def test_auto_backend() -> None:
    assert choose_backend("auto", torch.device("cpu")) == "mixed"
    assert choose_backend("auto", torch.device("cuda")) == "sdpa"
    assert choose_backend("math", torch.device("cuda")) == "math"
