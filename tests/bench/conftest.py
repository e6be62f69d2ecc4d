"""Benchmarks of tiny things, with a clock that ticks once a look."""

from itertools import count
from types import SimpleNamespace

import pytest
import torch

from dinolab.bench import common


@pytest.fixture
def ticking(monkeypatch) -> None:
    """Every timed call takes one second."""
    monkeypatch.setattr(common, "time", SimpleNamespace(perf_counter=count(0.0, 1.0).__next__))


@pytest.fixture(autouse=True)
def small_matmul(monkeypatch) -> None:
    monkeypatch.setattr(common, "MATMUL_SIDE", (32, 64))


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other over tiny work take far longer than the work, on a machine with other users."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
