"""Every loss against a plain float64 transcription of the paper's formula, loops and all."""

import math

import pytest
import torch
from torch import Tensor

from dinolab.losses import (
    centred_softmax,
    cross_entropy,
    entropy,
    koleo,
    multi_crop_cross_entropy,
    sinkhorn_knopp,
    update_centre,
)

B, L, K, D = 6, 3, 10, 5
F64 = torch.float64


def softmax(row: list[float]) -> list[float]:
    exps = [math.exp(x - max(row)) for x in row]
    return [e / sum(exps) for e in exps]


def ce(p: Tensor, logits: Tensor, temperature: float) -> float:
    q = softmax([x / temperature for x in logits.tolist()])
    return -sum(pk * math.log(qk) for pk, qk in zip(p.tolist(), q))


@pytest.fixture
def targets() -> Tensor:
    return torch.randn(2, B, K, dtype=F64).mul(2).softmax(-1)


def test_cross_entropy(targets: Tensor) -> None:
    logits = torch.randn(2, B, K, dtype=F64)
    expected = [[ce(targets[i, b], logits[i, b], 0.1) for b in range(B)] for i in range(2)]
    torch.testing.assert_close(cross_entropy(targets, logits, 0.1), torch.tensor(expected, dtype=F64))


def test_multi_crop_is_the_mean_over_all_pairs_of_different_views(targets: Tensor) -> None:
    """DINO, equation 3: the sum over teacher globals t and student views s, s not being t's own crop."""
    views = torch.randn(2 + L, B, K, dtype=F64, requires_grad=True)
    pairs = [(t, v) for t in range(2) for v in range(2 + L) if v != t]
    plain = sum(ce(targets[t, b], views[v, b].detach(), 0.1) for t, v in pairs for b in range(B)) / (len(pairs) * B)
    loss = multi_crop_cross_entropy(targets, views[:2], views[2:], 0.1)
    assert loss.item() == pytest.approx(plain, rel=1e-12)
    (grad,) = torch.autograd.grad(loss, views)

    with_log_softmax = sum(-(targets[t] * (views[v] / 0.1).log_softmax(-1)).sum(-1).mean() for t, v in pairs) / len(
        pairs
    )
    torch.testing.assert_close(grad, torch.autograd.grad(with_log_softmax, views)[0])


def test_without_locals_two_pairs_are_left(targets: Tensor) -> None:
    views = torch.randn(2, B, K, dtype=F64)
    plain = sum(ce(targets[t, b], views[1 - t, b], 0.1) for t in range(2) for b in range(B)) / (2 * B)
    assert multi_crop_cross_entropy(targets, views, None, 0.1).item() == pytest.approx(plain, rel=1e-12)


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
    p, logits, x = torch.randn(64, 300).softmax(-1), torch.rand(64, 300) * 2 - 1, 1 + 0.05 * torch.randn(64, 16)
    plain = (cross_entropy(p, logits, 0.1), koleo(x), sinkhorn_knopp(logits, 0.05))
    with torch.autocast("cpu", torch.bfloat16):
        cast = (cross_entropy(p, logits, 0.1), koleo(x), sinkhorn_knopp(logits, 0.05))
    for a, b in zip(plain, cast):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_half_precision_logits_are_summed_in_fp32() -> None:
    p = torch.randn(4, 4096).softmax(-1)
    logits = torch.randn(4, 4096)
    torch.testing.assert_close(
        cross_entropy(p, logits.bfloat16(), 0.1), cross_entropy(p, logits.bfloat16().float(), 0.1)
    )
    assert cross_entropy(p, logits.bfloat16(), 0.1).dtype == torch.float32
