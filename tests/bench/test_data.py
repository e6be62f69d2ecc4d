"""`dinolab bench data`: each part and the loader, what costs most, unreadable sources refused."""

import json
import os
import time

import cv2
import numpy as np
import pytest

from dinolab.bench import data
from dinolab.bench.data import conclusion, core_seconds, loader_job, part_job
from dinolab.cli import main
from dinolab.data import draws
from dinolab.data.decode import decode, read_file
from dinolab.data.samples import MicroBatches
from dinolab.data.sources import open_source
from dinolab.recipes import load_config
from dinolab.runs.build import needs_of
from tests.pictures import TINY, make_folder

PARTS = ["read files", "read and decode", "multi-crop", "loader, run.workers=0"]


@pytest.fixture(autouse=True)
def one_worker(monkeypatch):
    monkeypatch.setattr(data, "numbers_of_workers", lambda: [1])


def test_every_part_has_its_row(tmp_path):
    threads = cv2.getNumThreads()
    make_folder(tmp_path / "images", per_class=4, side=20)
    (tmp_path / "images" / "class0" / "000.png").write_bytes(b"broken")
    words = ["bench", "data", str(tmp_path / "images"), *TINY, "seconds=0", f"out={tmp_path / 'out'}"]
    assert main(words) == 0
    written = json.loads((tmp_path / "out" / "data.json").read_text())
    rows = written["rows"]
    assert [row["part"] for row in rows] == [*PARTS, "loader, run.workers=1"]
    for row in rows:
        low, high = row["images_per_s_quartiles"]
        assert 0 < low <= row["images_per_s"] <= high
        assert row["core_ms"] == pytest.approx(1e3 / row["images_per_core_s"])
    assert written["title"].startswith("Loading images: 8 images, 20 x 20 pixels and 1 kB (medians of 8)")
    assert "takes most of a core's time for an image: reading" in written["conclusion"]
    assert (tmp_path / "out" / "data.png").stat().st_size > 5_000
    assert cv2.getNumThreads() == threads


def test_the_conclusion_names_the_slowest_part():
    def rows(*core_ms):
        return [{"part": part, "core_ms": ms} for part, ms in zip(PARTS, core_ms)]

    assert conclusion(rows(1, 6, 3, 10)) == (
        "Decoding takes most of a core's time for an image: "
        "reading 10%, decoding 50%, multi-crop 30%, the rest (masks, putting the batch together) 10%."
    )
    assert "Multi-crop takes most" in conclusion(rows(1, 2, 30, 31))  # the rest comes out below nothing
    assert "Reading takes most" in conclusion(rows(50, 52, 3, 60))


def test_core_seconds_count_ended_children():
    def burn(seconds):
        began = time.process_time()
        while time.process_time() - began < seconds:
            pass

    before = core_seconds()
    burn(0.1)
    if not (child := os.fork()):
        burn(0.2)
        os._exit(0)
    os.waitpid(child, 0)
    assert 0.27 <= core_seconds() - before < 0.6
    before = core_seconds()
    time.sleep(0.2)
    assert core_seconds() - before < 0.1


def test_a_part_counts_its_passes(monkeypatch):
    passes = []
    clock = iter(range(100))
    monkeypatch.setattr(data.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(data, "core_seconds", lambda: 0.5 * len(passes))
    speeds = part_job(lambda: passes.append(1), images=7)(3.0)
    assert len(passes) == 3  # begun at 0; looks at 1, 2 and 3
    assert speeds.images_per_s == pytest.approx(7 * 3 / 4) and speeds.images_per_core_s == pytest.approx(7 * 3 / 1.5)


@pytest.mark.parametrize(("processes", "expected"), [(0, 6), (1, 6), (4, 24)])
def test_the_loader_warms_up_and_then_keeps_its_pace(processes, expected, monkeypatch):
    """Batches of 8 that come once a second; their number fills 5 seconds after the warm-up."""
    clock = iter(range(100))
    counted = []

    def fake(source, cfg, start, stop, workers, needs):
        assert workers == processes and needs == needs_of(cfg) and needs.masks is not None
        for _ in range(start, stop):
            counted.append(1)
            yield None

    monkeypatch.setattr(data, "batches", fake)
    monkeypatch.setattr(data.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(data, "core_seconds", lambda: 2.0 * len(counted))
    cfg = load_config(None, ["optim.batch_size=8"])
    speeds = loader_job(None, cfg, processes, expected=1 / 8)(5.0)
    assert len(counted) == expected
    assert speeds.images_per_s == 8 and speeds.images_per_core_s == 4


def test_numbers_of_workers(monkeypatch):
    monkeypatch.undo()  # the fixture's
    for cores, expected in ((1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])):
        monkeypatch.setattr(data, "cores", lambda cores=cores: cores)
        assert data.numbers_of_workers() == expected


def test_the_parts_do_what_the_loader_does(tmp_path, monkeypatch):
    cfg = load_config(None, TINY)
    source = open_source(str(make_folder(tmp_path, per_class=4)))
    read, decoded, cropped = [], [], []
    monkeypatch.setattr(data, "read_file", lambda path: read.append(path) or read_file(path))
    monkeypatch.setattr(data, "decode", lambda *args: decoded.append(decode(*args)))
    monkeypatch.setattr(data, "make_views", lambda image, crops, out: cropped.append((image, crops, out)))
    parts, images, _ = data.take_apart(source, cfg)
    read.clear()
    for part in parts.values():
        part()
    assert images == len(source) and read == source.paths * 2 and len(decoded) == len(cropped) == images
    dataset = MicroBatches(source, cfg)
    for n, (image, crops, out) in enumerate(cropped):
        _, expected, draws_of_loader = dataset.read(n, draws.rng(cfg.seed, draws.SAMPLE, n), [])
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(decoded[n], expected)
        np.testing.assert_array_equal(crops.boxes, draws_of_loader.boxes)
        assert [view.shape for view in out] == [(3, 16, 16)] * 2 + [(3, 8, 8)] * 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such file or folder"),
        (lambda folder: folder.mkdir(), "no image"),
        (lambda folder: (folder.mkdir(), (folder / "a.jpg").write_bytes(b"no picture")), "cannot be read"),
    ],
)
def test_sources_without_images(make, message, tmp_path, capsys):
    make(tmp_path / "images")
    assert main(["bench", "data", str(tmp_path / "images"), f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert message in error and "images" in error and error.count("\n") == 1
