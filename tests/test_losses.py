"""Every loss against a plain float64 transcription of the paper's formula, loops and all."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dinolab.losses import (
    centred_softmax,
    entropy,
    koleo,
    prototype_cross_entropy,
    sinkhorn_knopp,
    update_centre,
)

B, K, D = 6, 10, 5
F64 = torch.float64


def softmax(row: list[float]) -> list[float]:
    exps = [math.exp(x - max(row)) for x in row]
    return [e / sum(exps) for e in exps]


def ce(p: Tensor, logits: Tensor, temperature: float) -> float:
    q = softmax([x / temperature for x in logits.tolist()])
    return -sum(pk * math.log(qk) for pk, qk in zip(p.tolist(), q))


@pytest.mark.parametrize("chunk", [1, 2 * K, 4 * K + 1, 1 << 20])
@pytest.mark.parametrize("shared", [False, True])
def test_prototype_cross_entropy(chunk: int, shared: bool) -> None:
    """Value and both gradients are those of the plain formula, however the samples are cut; targets need not sum to one."""
    n = 3 * B
    x = torch.randn(n, D, dtype=F64, requires_grad=True)
    prototypes = torch.randn(K, D, dtype=F64, requires_grad=True)
    weights = torch.rand(n, dtype=F64)
    p = torch.randn(B if shared else n, K, dtype=F64).softmax(-1) * torch.rand(B if shared else n, 1, dtype=F64) * 2
    rows = torch.arange(n) % B if shared else None
    loss = prototype_cross_entropy(x, prototypes, p, weights, 0.1, rows, chunk)
    grads = torch.autograd.grad(3 * loss, (x, prototypes))

    met = p[torch.arange(n) % B] if shared else p
    plain = sum(
        weights[i].item() * met[i].sum().item() * ce(met[i] / met[i].sum(), x[i] @ prototypes.T, 0.1) for i in range(n)
    )
    assert loss.item() == pytest.approx(plain, rel=1e-12)
    by_autograd = -((met * (x @ prototypes.T / 0.1).log_softmax(-1)).sum(-1) * weights).sum()
    for ours, theirs in zip(grads, torch.autograd.grad(3 * by_autograd, (x, prototypes))):
        torch.testing.assert_close(ours, theirs)


def test_the_logits_are_never_held_all_at_once() -> None:
    n, k = 512, 1024
    x, prototypes = (torch.randn(i, 4, requires_grad=True) for i in (n, k))
    p, weights = torch.rand(1, k), torch.ones(n)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            nonlocal largest
            largest = max([largest, *(t.numel() for t in (out if isinstance(out, tuple) else (out,)))])
            return out

    with Watch():
        rows = torch.zeros(n, dtype=torch.int64)
        prototype_cross_entropy(x, prototypes, p, weights, 0.1, rows, chunk=8 * k).backward()
    assert largest == 8 * k  # of n * k


def test_no_samples_cost_nothing() -> None:
    x, prototypes = torch.zeros(0, D, requires_grad=True), torch.randn(K, D, requires_grad=True)
    loss = prototype_cross_entropy(x, prototypes, torch.zeros(0, K), torch.zeros(0), 0.1)
    loss.backward()
    assert loss.item() == 0 and x.grad.shape == (0, D) and not prototypes.grad.any()


def test_centring_and_sharpening() -> None:
    logits, centre = torch.randn(B, K, dtype=F64), torch.randn(K, dtype=F64)
    expected = [softmax([(x - c) / 0.04 for x, c in zip(row, centre.tolist())]) for row in logits.tolist()]
    torch.testing.assert_close(centred_softmax(logits, centre, 0.04), torch.tensor(expected, dtype=F64))
    moved = [0.9 * c + 0.1 * sum(logits[:, k].tolist()) / B for k, c in enumerate(centre.tolist())]
    torch.testing.assert_close(update_centre(centre, logits, 0.9), torch.tensor(moved, dtype=F64))


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_knopp(iterations: int) -> None:
    """SwAV's algorithm, on its K x B matrix with unit mass, element by element."""
    logits = torch.randn(B, K, dtype=F64)
    q = [[math.exp(logits[b, k].item() / 0.5) for b in range(B)] for k in range(K)]
    mass = sum(map(sum, q))
    q = [[x / mass for x in row] for row in q]
    for _ in range(iterations):
        q = [[x / sum(row) / K for x in row] for row in q]
        columns = [sum(q[k][b] for k in range(K)) for b in range(B)]
        q = [[q[k][b] / columns[b] / B for b in range(B)] for k in range(K)]
    expected = torch.tensor(q, dtype=F64).T * B
    torch.testing.assert_close(sinkhorn_knopp(logits, 0.5, iterations), expected)


def test_sinkhorn_knopp_shares_out_equally_even_from_extreme_logits() -> None:
    logits = torch.randn(64, 8)
    logits[:, 0] += 1  # one prototype is everybody's first choice
    q = sinkhorn_knopp(logits.clamp(-2, 2), 0.05, 50)
    torch.testing.assert_close(q.sum(1), torch.ones(64))
    torch.testing.assert_close(q.sum(0), torch.full((8,), 8.0), atol=0.2, rtol=0)
    far = torch.full((4, 3), -1.0)
    far[:, 0] = 1.0
    assert sinkhorn_knopp(far, 0.01).isfinite().all()  # e^-200 is 0 in fp32


def test_koleo() -> None:
    x = torch.randn(B, D, dtype=F64)
    rows = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in x.tolist()]
    total = sum(math.log(min(math.dist(a, b) for j, b in enumerate(rows) if j != i)) for i, a in enumerate(rows))
    assert koleo(x).item() == pytest.approx(-total / B, rel=1e-6)  # its own epsilon is 1e-8


def test_koleo_pushes_neighbours_apart_and_survives_twins() -> None:
    x = torch.nn.functional.normalize(torch.randn(8, 3, dtype=F64), dim=-1).requires_grad_()
    (grad,) = torch.autograd.grad(koleo(x), x)
    moved = torch.nn.functional.normalize(x - 0.01 * grad, dim=-1)
    assert koleo(moved) < koleo(x)
    twins = torch.ones(4, 3, requires_grad=True)
    loss = koleo(twins)
    loss.backward()
    assert loss.isfinite() and loss > 10 and twins.grad.isfinite().all()
    assert koleo(torch.randn(1, 3)).item() == 0


def test_entropy() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(entropy(p), torch.tensor([math.log(2), 0.0]))


def test_autocast_does_not_reach_the_losses() -> None:
    logits, x = torch.rand(64, 300) * 2 - 1, 1 + 0.05 * torch.randn(64, 16)
    plain = (koleo(x), sinkhorn_knopp(logits, 0.05))
    with torch.autocast("cpu", torch.bfloat16):
        cast = (koleo(x), sinkhorn_knopp(logits, 0.05))
    for a, b in zip(plain, cast):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_half_precision_logits_are_summed_in_fp32() -> None:
    """Under autocast the products with the prototypes are half precision, everything after them is not."""
    x, prototypes = torch.randn(8, 64), torch.randn(4096, 64)
    p, weights = torch.randn(8, 4096).softmax(-1), torch.ones(8)
    with torch.autocast("cpu", torch.bfloat16):
        loss = prototype_cross_entropy(x, prototypes, p, weights, 0.1)
        logits = torch.nn.functional.linear(x, prototypes)
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    torch.testing.assert_close(loss, -(p * (logits.float() / 0.1).log_softmax(-1)).sum())
