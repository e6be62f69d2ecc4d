"""Timing: in turns, robust against drifting clocks, failures kept to their own variant, peaks of memory."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from dinolab.bench import common
from dinolab.bench.common import Timing, matmul, measure, memory_in_use, share_of_matmul
from dinolab.errors import UserError
from dinolab.memory import can_measure

CPU = torch.device("cpu")
MB = 1e6


def test_variants_take_turns_round_by_round():
    calls = []
    timings = measure({name: lambda name=name: calls.append(name) for name in "abc"}, CPU, seconds=0)
    warm_up_and_peak = ["a", "a", "b", "b", "c", "c"]
    assert calls == warm_up_and_peak + ["a", "b", "c"] * 3
    assert all(len(timing.seconds) == 3 for timing in timings.values())


def test_seconds_are_for_each_variant(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(common, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def work():
        now[0] += 1.0

    timings = measure({"a": work, "b": work}, CPU, seconds=10)
    assert len(timings["a"].seconds) == len(timings["b"].seconds) == 10
    assert sum(timings["a"].seconds) == 10


def test_a_drifting_clock_leaves_the_ratio_alone(monkeypatch):
    """The machine slows down by 2 % a call, in the end to a fraction of its speed."""
    now, pace = [0.0], [1.0]
    monkeypatch.setattr(common, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def work(cost):
        now[0] += cost * pace[0]
        pace[0] *= 1.02

    timings = measure({"quick": lambda: work(1), "slow": lambda: work(3)}, CPU, seconds=300)
    assert (
        timings["quick"].seconds[-1] > 2 * timings["quick"].seconds[0]
    )  # or there would be nothing to be robust against
    assert timings["quick"].times_as_fast_as(timings["slow"]) == pytest.approx(3 * 1.02)
    assert timings["slow"].times_as_fast_as(timings["quick"]) == pytest.approx(1 / (3 * 1.02))


def test_median_and_quartiles_are_numpys():
    seconds = [0.5, 0.1, 0.9, 0.4, 0.45, 2.0]
    timing = Timing(seconds)
    assert timing.median == np.median(seconds)
    np.testing.assert_allclose(timing.quartiles, np.quantile(seconds, [0.25, 0.75]))
    row = timing.row(images=9)
    assert row["ms"] == pytest.approx(475) and row["images_per_s"] == pytest.approx(9 / 0.475) and row["rounds"] == 6


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), "out of memory"),
        (RuntimeError("No available kernel.\nAborting execution."), "No available kernel."),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "out of memory"),
        (
            RuntimeError("backend='inductor' raised:\nTritonMissing: Cannot find a working triton installation. See"),
            "TritonMissing: Cannot find a working triton installation. See",
        ),
        (NotImplementedError(), "NotImplementedError"),
        (UserError("run.compile needs a compiler"), "run.compile needs a compiler"),
    ],
)
def test_a_variant_that_cannot_run_drops_out_alone(error, words):
    def fail():
        raise error

    timings = measure({"fails": fail, "works": lambda: None}, CPU, seconds=0)
    assert timings["fails"].failure == words and timings["fails"].row(4) == {"note": words}
    assert not timings["works"].failure and len(timings["works"].seconds) == 3


def test_a_variant_that_fails_later_has_no_figures():
    calls = []

    def fail_at_the_fourth():
        calls.append(1)
        if len(calls) == 4:
            raise torch.OutOfMemoryError

    timings = measure({"fails": fail_at_the_fourth}, CPU, seconds=0)
    assert timings["fails"].row(1) == {"note": "out of memory"} and len(calls) == 4


def test_mistakes_of_the_program_are_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        measure({"bug": lambda: 1 / 0}, CPU, seconds=0)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measure({"bug": lambda: torch.ones(2, 3) @ torch.ones(2, 3)}, CPU, seconds=0)


def test_a_kernel_that_does_not_exist_here_is_no_mistake_of_the_program():
    q = torch.ones(1, 1, 4, 8)

    def with_dropout():  # which SDPA's flash kernel for CPUs does not have
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            scaled_dot_product_attention(q.double(), q.double(), q.double(), dropout_p=0.5)

    timings = measure({"none": with_dropout}, CPU, seconds=0)
    assert timings["none"].failure.startswith("No available kernel")


@pytest.mark.skipif(not can_measure(CPU), reason="the peak of memory cannot be measured here")
def test_peak_memory_is_each_variants_own():
    def fill(megabytes):
        return torch.ones(int(megabytes * MB) // 4).sum()

    before = memory_in_use(CPU)
    held = torch.ones(int(40 * MB) // 4)
    timings = measure({"large": lambda: fill(120), "small": lambda: fill(20)}, CPU, 0, before)
    assert timings["large"].peak_memory == pytest.approx(160 * MB, abs=12 * MB)
    assert timings["small"].peak_memory == pytest.approx(60 * MB, abs=12 * MB)
    assert len(held) and timings["small"].row(1)["peak_memory_mb"] == timings["small"].peak_memory / MB


def test_without_a_beginning_there_is_no_peak():
    assert measure({"a": lambda: None}, CPU, 0)["a"].row(1)["peak_memory_mb"] is None


def test_matmul_grows_until_it_takes_long_enough(monkeypatch):
    monkeypatch.setattr(common, "MATMUL_SECONDS", 1e9)
    product, flops = matmul(CPU, torch.float32)
    assert product().shape == (64, 64) and flops == 2 * 64**3  # the largest side
    monkeypatch.setattr(common, "MATMUL_SECONDS", 0.0)
    product, flops = matmul(CPU, torch.float64)
    assert product().shape == (32, 32) and product().dtype == torch.float64 and flops == 2 * 32**3


def test_share_of_matmul():
    ours, theirs = Timing([2.0, 4.0, 2.0]), Timing([0.5, 1.0, 0.5])
    assert share_of_matmul(ours, 300.0, theirs, 100.0) == pytest.approx((300 / 2) / (100 / 0.5))
    assert share_of_matmul(Timing(failure="out of memory"), 300.0, theirs, 100.0) is None
