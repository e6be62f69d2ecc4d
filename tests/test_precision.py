"""The number type of a computation, and who computes matrix products on a CPU."""

import time

import pytest
import torch
from torch import Tensor

from dinolab import precision
from dinolab.models.attention import SHORT, attention, pack_runs
from dinolab.precision import autocast, choose_precision, cpu_is_fast_in_bf16, quick_products
from dinolab.recipes import load_config
from dinolab.runs.build import build_method
from dinolab.runs.noise import random_batch, values
from tests.pictures import TINY, fit_words

CPU = torch.device("cpu")
MATMUL = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


def test_auto_takes_bf16_where_the_cpu_is_fast_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(precision, "cpu_is_fast_in_bf16", lambda fast=fast: fast)
        assert choose_precision("auto", CPU) is expected
        assert choose_precision("fp32", CPU) is None
        assert choose_precision("bf16", CPU) is torch.bfloat16


def test_the_trial_is_not_disturbed_by_autocast() -> None:
    cpu_is_fast_in_bf16.cache_clear()
    outside = cpu_is_fast_in_bf16()
    cpu_is_fast_in_bf16.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert cpu_is_fast_in_bf16() == outside


def test_the_trial_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads on cores that others use wait for each other, and whatever the trial then says is chance."""
    seen, clock, before = set(), time.thread_time, torch.get_num_threads()

    def look() -> float:
        seen.add(torch.get_num_threads())
        return clock()

    monkeypatch.setattr(precision.time, "thread_time", look)
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    monkeypatch.setattr(precision, "_factors", lambda: (torch.ones(4, 4), torch.ones(4, 4)))
    torch.set_num_threads(2)
    try:
        cpu_is_fast_in_bf16.__wrapped__()
        assert seen == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_trial_is_in_float32_whatever_the_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert {part.dtype for part in precision._factors()} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)


def test_quick_products_are_exact_and_end_with_the_block() -> None:
    a, b = torch.randn(300, 384, dtype=torch.float64), torch.randn(384, 500, dtype=torch.float64)
    before = MATMUL.fp32_precision
    with quick_products():
        inside, product = MATMUL.fp32_precision, a.float() @ b.float()
    assert inside == ("bf16" if precision.onednn_is_exact() else before)
    assert MATMUL.fp32_precision == before
    torch.testing.assert_close(product, (a @ b).float(), atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("quick", [False, True])
def test_mixed_takes_the_formula_for_short_crops_alone(monkeypatch: pytest.MonkeyPatch, quick: bool) -> None:
    monkeypatch.setattr("dinolab.models.attention.products_are_quick", lambda dtype: quick)
    lengths: list[int] = []

    def counted(q: Tensor, k: Tensor) -> Tensor:
        lengths.append(q.shape[-2])
        return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)

    monkeypatch.setattr("dinolab.models.attention.attention_weights", counted)
    packing = pack_runs(((2, 5), (1, SHORT + 1)), CPU)
    q, k, v = (torch.randn(packing.tokens, 1, 8) for _ in range(3))
    attention(q, k, v, packing, "mixed")
    assert lengths == ([5] if quick else [])


def test_gradients_in_bf16_are_within_its_rounding_of_those_in_fp32() -> None:
    words = [*TINY, "method=dinov2", "model.dim=64", "model.depth=3", "model.heads=2", "loss.koleo=0.1"]
    cfg = load_config(None, fit_words([*words, "optim.batch_size=16", "model.drop_path=0"]))
    views, s = random_batch(cfg, CPU), values(cfg)
    method = build_method(cfg, CPU).train()
    gradients = []
    for dtype in (None, torch.bfloat16):
        with quick_products(), autocast(CPU, dtype):
            (targets,) = method.targets(views, s)
            method.loss(views[0], targets, s)[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in method.student.parameters() if p.grad is not None]))
        method.zero_grad()
    exact, rough = gradients
    error = ((rough - exact).norm() / exact.norm()).item()
    assert 0 < error < 0.1
