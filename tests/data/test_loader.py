"""Batches: the same whoever loads them and wherever the run begins; each epoch one pass; broken images replaced."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from dinolab.data import loader, masks, samples
from dinolab.data.device_views import Photos
from dinolab.data.masks import Masks
from dinolab.data.types import Needs, Source, Views
from dinolab.errors import UserError
from dinolab.options import Config

IMAGES, BATCH = 13, 4
MASKED = Needs(masks=Masks(), grid=4)
batches = partial(loader.batches, needs=MASKED)
photo_batches = partial(loader.photo_batches, needs=MASKED)
adaptive_batches = partial(loader.adaptive_batches, needs=MASKED)


@pytest.fixture
def source(tmp_path) -> Source:
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{n}.png") for n in range(IMAGES)]
    for path in paths:
        cv2.imwrite(path, rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    return Source("images", paths, None, [])


def config(**run) -> Config:
    cfg = Config()
    cfg.optim.batch_size = BATCH
    cfg.views.global_size, cfg.views.local_size, cfg.views.locals = 16, 8, 2
    cfg.model.patch_size = 4
    for name, value in run.items():
        setattr(cfg.run, name, value)
    return cfg


def equal(a: list, b: list) -> bool:
    """Whether all micro-batches of all steps are the same, be they Views or Photos."""

    def one(x: Views | Photos, y: Views | Photos) -> bool:
        pairs = list(zip(x, y))
        assert sum(isinstance(t, torch.Tensor) for t, _ in pairs) >= 5  # masks, too
        return type(x) is type(y) and all(
            torch.equal(t, u) if isinstance(t, torch.Tensor) else t == u for t, u in pairs
        )

    return [len(step) for step in a] == [len(step) for step in b] and all(
        one(x, y) for s, t in zip(a, b) for x, y in zip(s, t)
    )


BOTH = pytest.mark.parametrize("way", [batches, photo_batches])


def break_image(source: Source, position: int) -> None:
    Path(source.paths[position]).write_bytes(b"not an image")


def test_shapes(source):
    cfg = config()
    (views,) = next(batches(source, cfg, 0, 1, 0))
    assert (views.global_crops.shape, views.local_crops.shape) == ((2, BATCH, 3, 16, 16), (2, BATCH, 3, 8, 8))
    assert views.masks is not None
    assert (views.masks.shape, views.masks.dtype) == ((2, BATCH, 16), torch.bool)
    assert (views.indices.shape, views.indices.dtype) == ((BATCH,), torch.int64)
    assert views.global_crops.dtype == views.local_crops.dtype == torch.uint8
    assert views.broken == []
    (plain,) = next(loader.batches(source, cfg, 0, 1, 0))
    assert plain.masks is None
    assert torch.equal(plain.global_crops, views.global_crops)
    assert torch.equal(plain.local_crops, views.local_crops)


@pytest.mark.parametrize("way", [loader.batches, loader.photo_batches])
def test_extra_is_made_of_the_whole_image_also_where_crops_need_less(way, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "0.jpg"), image)
    source = Source("images", [str(tmp_path / "0.jpg")], None, [])
    cfg = config()
    (part,) = next(way(source, cfg, 0, 1, 0, needs=Needs(extra=lambda image, rng: image, places=True)))
    views = part.to(torch.device("cpu"))
    assert torch.equal(views.extra[0], torch.from_numpy(cv2.cvtColor(cv2.imread(source.paths[0]), cv2.COLOR_BGR2RGB)))
    assert views.places.shape == (BATCH, 4, 5) and views.places.dtype == torch.float32
    areas = views.places[..., 2:4].prod(-1) * 300**2 / (300 * 400)
    assert (areas[:, :2] > 0.38).all() and (areas[:, 2:] < 0.42).all()  # of global and of local crops


def test_no_local_crops(source):
    cfg = config()
    cfg.views.locals = 0
    (views,) = next(batches(source, cfg, 0, 1, 0))
    assert views.local_crops.shape == (0, BATCH, 3, 8, 8)


@BOTH
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("micro_batch", [0, 2])
def test_same_batches_for_any_number_of_workers(source, way, workers, micro_batch):
    break_image(source, 5)
    cfg = config(micro_batch=micro_batch)
    alone = list(way(source, cfg, 0, 8, 0))
    assert any(views.broken for step in alone for views in step)
    assert equal(list(way(source, cfg, 0, 8, workers)), alone)


@BOTH
@pytest.mark.parametrize("workers", [0, 2])
def test_starting_in_the_middle(source, way, workers):
    break_image(source, 5)
    cfg = config(micro_batch=2)
    assert equal(list(way(source, cfg, 5, 8, workers)), list(way(source, cfg, 0, 8, 0))[5:])


@BOTH
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_micro_batches_make_the_whole_batch(source, way, micro_batch):
    break_image(source, 5)
    whole = list(way(source, config(), 0, 8, 0))
    parts = list(way(source, config(micro_batch=micro_batch), 0, 8, 0))
    batch_dimension = {
        "global_crops": 1,
        "local_crops": 1,
        "masks": 1,
        "pixels": 0,
        "sizes": 0,
        "crops": 0,
        "indices": 0,
    }
    for (one,), several in zip(whole, parts, strict=True):
        assert len(several) == BATCH // micro_batch
        for name in set(batch_dimension) & set(one._fields):
            joined = torch.cat([getattr(part, name) for part in several], dim=batch_dimension[name])
            assert torch.equal(joined, getattr(one, name)), name
        assert [entry for part in several for entry in part.broken] == one.broken


def test_an_epoch_is_one_exact_pass(source):
    steps = list(batches(source, config(), 0, IMAGES, 0))  # 13 steps of 4: four epochs of 13
    order = torch.cat([views.indices for step in steps for views in step]).reshape(BATCH, IMAGES)
    assert torch.equal(order.sort().values, torch.arange(IMAGES).expand(BATCH, -1))
    assert len({tuple(epoch.tolist()) for epoch in order}) == BATCH
    assert not torch.equal(order[0], torch.arange(IMAGES))


def test_a_batch_larger_than_the_source(source):
    few = Source("few", source.paths[:3], None, [])
    order = torch.cat([step[0].indices for step in batches(few, config(), 0, 3, 0)]).reshape(4, 3)
    assert torch.equal(order.sort().values, torch.arange(3).expand(4, -1))


def test_every_epoch_and_every_seed_draws_anew(source):
    cfg = config()
    one = Source("one", source.paths[:1], None, [])
    (views,) = next(batches(one, cfg, 0, 1, 0))
    assert len({views.global_crops[0, b].numpy().tobytes() for b in range(BATCH)}) == BATCH
    other = config()
    other.seed = 1
    a, b = next(batches(source, cfg, 0, 1, 0))[0], next(batches(source, other, 0, 1, 0))[0]
    assert not torch.equal(a.global_crops, b.global_crops)
    assert not torch.equal(a.indices, b.indices)


def test_masks_have_the_same_total_at_every_step(source):
    cfg = config(micro_batch=2)
    steps = list(batches(source, cfg, 0, 12, 0))
    totals = set()
    for number, step in enumerate(steps):
        found = torch.cat([views.masks for views in step if views.masks is not None], dim=1)
        totals.add(int(found.sum()))
        counts = masks.mask_counts(cfg.seed, number, BATCH, 16, Masks())
        assert np.array_equal(found.sum(2).numpy(), counts)
        for views in step:
            assert torch.equal(views.masked, views.masks.flatten().nonzero()[:, 0])
    assert len(totals) == 1


def test_a_broken_image_is_replaced_and_reported(source):
    break_image(source, 5)
    os.unlink(source.paths[9])
    steps = list(batches(source, config(), 0, IMAGES, 0))
    index = torch.cat([views.indices for step in steps for views in step])
    broken = [entry for step in steps for views in step for entry in views.broken]
    assert len(index) == IMAGES * BATCH
    assert not {5, 9} & set(index.tolist())
    # each of the four epochs meets each of them once, more often only where a draw in their place meets them again
    assert all(sum(position == n for position, _ in broken) >= 4 for n in (5, 9))
    assert {position for position, _ in broken} == {5, 9}
    assert dict(broken)[5] == "not an image"
    assert "no such file" in dict(broken)[9]


def test_a_broken_image_changes_no_other_sample(source):
    whole = list(batches(source, config(), 0, 4, 0))
    break_image(source, 5)
    for (before,), (after,) in zip(whole, batches(source, config(), 0, 4, 0), strict=True):
        same = before.indices != 5
        assert torch.equal(before.indices[same], after.indices[same])
        assert torch.equal(before.global_crops[:, same], after.global_crops[:, same])
        assert torch.equal(before.local_crops[:, same], after.local_crops[:, same])


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_broken_images(source, workers):
    for position in range(IMAGES):
        break_image(source, position)
    with pytest.raises(UserError, match=r"\.png.*not an image") as caught:
        list(batches(source, config(), 0, 1, workers))
    assert "\n" not in str(caught.value)


def test_refusals(source):
    with pytest.raises(UserError, match=r"run\.micro_batch=3.*optim\.batch_size=4"):
        next(batches(source, config(micro_batch=3), 0, 1, 0))
    with pytest.raises(UserError, match="nothing holds no images"):
        next(batches(Source("nothing", [], None, []), config(), 0, 1, 0))


def test_no_steps(source):
    assert list(batches(source, config(), 3, 3, 0)) == []


@pytest.mark.parametrize("end", ["raise ValueError('failed')", "os.kill(os.getpid(), 15)"])
def test_workers_end_with_the_main_process(source, tmp_path, end):
    """They ignore SIGTERM, which must not keep a main process that failed from ever ending, nor outlive it."""
    code = (
        "import os, multiprocessing; from dinolab.data.loader import batches; from dinolab.data.sources import open_source; "
        f"from tests.data.test_loader import config; source = open_source({os.path.dirname(source.paths[0])!r}); "
        "steps = batches(source, config(), 0, 1000, 1); "
        f"next(steps); print(multiprocessing.active_children()[0].pid, flush=True); {end}"
    )
    main = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert main.returncode in (1, -15)
    worker, tries = int(main.stdout), 0
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert (tries := tries + 1) < 200, "the worker lives on"
        time.sleep(0.1)


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="the worker must inherit the patch")
def test_a_worker_that_dies_is_no_hang(source, monkeypatch):
    real = samples.decode

    def deadly(*args: Any) -> np.ndarray:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    def too_long(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(samples, "decode", deadly)
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    try:
        with pytest.raises(UserError, match=r"run\.workers") as caught:
            list(batches(source, config(), 0, 4, 2))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_har(har, workers):
    paths = sorted(str(path) for path in (har / "train").iterdir())[:64]
    cfg = config()
    (views,) = next(batches(Source("har", paths, None, []), cfg, 0, 1, workers))
    assert views.global_crops.float().std() > 20
    assert views.broken == []


def test_photos_hold_the_images_once_in_shared_memory(source):
    (photos,) = next(photo_batches(source, config(), 0, 1, 1))
    assert photos.pixels.is_shared()
    assert len(photos.pixels) == 3 * photos.sizes.prod(1).sum() == 3 * BATCH * 20 * 24
    for n, index in enumerate(photos.indices.tolist()):
        image = cv2.imread(source.paths[index])[..., ::-1]
        assert np.array_equal(photos.pixels.view(BATCH, 20, 24, 3)[n].numpy(), image)


class Clock:
    """Time that passes where the tests say so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reading: float) -> None:
        self.now, self.reading = 0.0, reading
        real = samples.decode

        def slow(*args: Any) -> np.ndarray:
            self.now += self.reading
            return real(*args)

        monkeypatch.setattr(samples, "decode", slow)
        monkeypatch.setattr(loader, "perf_counter", lambda: self.now)

    def train(self, steps: Iterator[Any], seconds: float) -> Iterator[Any]:
        for step in steps:
            yield step
            self.now += seconds


def indices(steps: list) -> list[int]:
    return [n for step in steps for part in step for n in part.indices.tolist()]


@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize(("step_seconds", "switches"), [(30, True), (41, False)])
def test_a_loader_that_is_too_slow_leaves_crops_to_the_device(source, monkeypatch, start, step_seconds, switches):
    break_image(source, 5)  # so reading takes a little more than 4 seconds a step
    cfg, stop, said = config(micro_batch=2), start + 36, []
    expected = list(batches(source, cfg, start, stop, 0))
    clock = Clock(monkeypatch, reading=1.0)
    steps = list(clock.train(adaptive_batches(source, cfg, start, stop, 0, False, said.append), step_seconds))
    assert indices(steps) == indices(expected)
    assert [isinstance(step[0], Photos) for step in steps] == [False] * 30 + [switches] * 6
    assert [len(step) for step in steps] == [2] * 36
    assert len(said) == switches
    if switches:
        assert "13% of the time" in said[0]
        assert "run.device_views" in said[0]
    for step, plain in zip(steps, expected):
        assert all(torch.equal(a.masks, b.masks) and a.broken == b.broken for a, b in zip(step, plain))


def test_a_slow_start_is_forgiven(source, monkeypatch):
    clock, said = Clock(monkeypatch, reading=100.0), []
    kinds = []
    for number, step in enumerate(clock.train(adaptive_batches(source, config(), 0, 35, 0, False, said.append), 41)):
        kinds.append(type(step[0]))
        clock.reading = 1.0 if number >= 9 else 100.0
    assert set(kinds) == {Views}
    assert said == []


def test_the_slow_loader_is_ended(source, monkeypatch):
    monkeypatch.setattr(loader, "WAITING", -1.0)
    cfg, before = config(), set(multiprocessing.active_children())
    expected = indices(list(batches(source, cfg, 0, 40, 0)))
    steps = adaptive_batches(source, cfg, 0, 40, 2, False, lambda _: None)
    found = [next(steps) for _ in range(30)]
    first = set(multiprocessing.active_children()) - before
    found.append(next(steps))
    second = set(multiprocessing.active_children()) - before
    assert len(first) == len(second) == 2
    assert not first & second
    found += steps
    assert indices(found) == expected
    assert [isinstance(step[0], Photos) for step in found] == [False] * 30 + [True] * 10
