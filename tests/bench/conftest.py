"""Benchmarks of tiny things, with a clock that ticks once a look."""

import gc
from collections.abc import Iterator
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


@pytest.fixture(autouse=True, scope="package")
def quick_collections() -> Iterator[None]:
    """Benchmarks collect garbage between variants, which takes long where all imported modules are looked through each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over tiny work take far longer than the work, on a machine with other users."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
