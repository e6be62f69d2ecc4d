"""Speed of loading images: reading, decoding, multi-crop, and the whole loader by number of processes."""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from dinolab.bench.common import ROUNDS, Row, Setting
from dinolab.bench.report import Columns, bars, collect, report
from dinolab.data import draws
from dinolab.data.crops import draw_crops, reduction
from dinolab.data.decode import decode, jpeg_size, read_file
from dinolab.data.loader import batches
from dinolab.data.samples import MicroBatches
from dinolab.data.sources import subset
from dinolab.data.types import Source
from dinolab.data.views import make_views
from dinolab.machine import cores
from dinolab.options import Config
from dinolab.recipes import load_config
from dinolab.runs.build import needs_of, open_data

RECIPE = "dinov2_vits16"
SAMPLE = 32  # images on which the parts are measured
BATCH = 32  # images in the loader's batches, at most; the time of an image does not depend on it
READING, READ_AND_DECODE, CROPPING, ALONE = "read files", "read and decode", "multi-crop", "loader, run.workers=0"
COLUMNS: Columns = {
    "part": ("part", ""),
    "images_per_s": ("images/s", ",.1f"),
    "images_per_s_quartiles": ("quartiles", ",.1f"),
    "images_per_core_s": ("images per core-second", ",.1f"),
    "core_ms": ("core-ms an image", ",.2f"),
}


class Speeds(NamedTuple):
    """Speed of a part of the loader."""

    images_per_s: float
    images_per_core_s: float  # images for each second that one core computes


Job = Callable[[float], Speeds]  # takes the number of seconds to work for, about


def bench(path: str, recipe: str | None, words: Sequence[str], seconds: float, out: Path) -> None:
    """Measure each part of the loader, and the whole, in images/s; see docs/bench.md.

    Args:
        path: the images, as data.path= takes them.
        recipe: whose crops are made, its name or file; None takes RECIPE.
        words: options of the config, "key=value".
        seconds: for each part, in all rounds together.
        out: folder for data.json and data.png.

    Raises:
        UserError: no image can be read there, or the config is not valid.
    """
    cfg = load_config(recipe or RECIPE, [*words, f"data.path={path}"])
    optim = replace(cfg.optim, batch_size=min(BATCH, cfg.optim.batch_size))
    cfg = replace(cfg, optim=optim, run=replace(cfg.run, micro_batch=0))
    source = open_data(cfg, cache=None)
    out.mkdir(parents=True, exist_ok=True)
    with one_thread():
        parts, images, sizes = take_apart(source, cfg)
        jobs = {name: part_job(part, images) for name, part in parts.items()}
        expected = sum(1 / jobs[name](0).images_per_s for name in (READ_AND_DECODE, CROPPING))  # seconds an image
        jobs[ALONE] = loader_job(source, cfg, 0, expected)
        jobs |= {f"loader, run.workers={n}": loader_job(source, cfg, n, expected) for n in numbers_of_workers()}
        found = collect(take_turns(jobs, seconds), ("part",))
    title = f"Loading {Path(path).name}: {len(source):,} images, {sizes}; {cores()} cores"
    shown = found[1:]  # reading files is hundreds of times faster; beside it the other bars would vanish
    panels = {key: COLUMNS[key] for key in ("core_ms", "images_per_s")}
    bars(shown, [row["part"] for row in shown], panels, title, out / "data.png")
    setting = Setting(torch.device("cpu"), None, seconds)
    report("data", title, found, COLUMNS, out, setting, conclusion(found))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let OpenCV use no threads of its own inside, as in the processes that load images."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def take_apart(source: Source, cfg: Config) -> tuple[dict[str, Callable[[], None]], int, str]:
    """Take the loader apart.

    Returns:
        Each part as a function that passes once over a sample of images; the number of images; and a text on their sizes.
    """
    dataset = MicroBatches(subset(source, SAMPLE, seed=0), cfg)
    numbers = range(min(SAMPLE, len(source)))
    rngs = [partial(draws.rng, cfg.seed, draws.SAMPLE, n) for n in numbers]
    items = [dataset.read(n, rng(), []) for n, rng in zip(numbers, rngs)]
    paths = [dataset.path(index) for index, _, _ in items]
    views = cfg.views
    sizes = [views.global_size] * 2 + [views.local_size] * views.locals
    out = [np.empty((source.pixels.channels, side, side), np.uint8) for side in sizes]

    def read_files() -> None:
        for path in paths:
            read_file(path)

    def read_and_decode() -> None:
        for path, (_, _, crops) in zip(paths, items):
            data = read_file(path)
            jpeg_size(data)  # the loader draws the crops for this size, and then knows how small it may decode
            decode(data, path, reduction(crops, views))

    def crop() -> None:
        for rng, (_, image, crops) in zip(rngs, items):
            make_views(image, draw_crops(crops.size[0], crops.size[1], views, rng()), out)

    height, width = (statistics.median(sides) for sides in zip(*(crops.size for _, _, crops in items)))
    length = statistics.median(len(read_file(path)) for path in paths)
    about = f"{width:.0f} x {height:.0f} pixels and {length / 1e3:,.0f} kB (medians of {len(numbers)})"
    return {READING: read_files, READ_AND_DECODE: read_and_decode, CROPPING: crop}, len(numbers), about


def part_job(run: Callable[[], None], images: int) -> Job:
    """Return a job that calls a part again and again; each call processes this number of images."""

    def job(seconds: float) -> Speeds:
        cores, began, passes = core_seconds(), time.perf_counter(), 0
        while passes == 0 or time.perf_counter() - began < seconds:
            run()
            passes += 1
        done = images * passes
        return Speeds(done / (time.perf_counter() - began), done / (core_seconds() - cores))

    return job


def loader_job(source: Source, cfg: Config, processes: int, expected: float) -> Job:
    """Return a job that loads with the whole loader. The start of its processes counts as core-seconds, but not as time.

    Args:
        processes: that load images; 0 loads in this process.
        expected: seconds that an image takes in one process.
    """

    def job(seconds: float) -> Speeds:
        size, lanes = cfg.optim.batch_size, max(1, processes)
        each = 1 + max(2, math.ceil(seconds / (size * expected)))  # batches of each process; the first is a warm-up
        cores, needs = core_seconds(), needs_of(cfg)
        came = [time.perf_counter() for _ in batches(source, cfg, 0, each * lanes, processes, needs=needs)]
        elapsed = came[-1] - came[lanes - 1]
        return Speeds((each - 1) * lanes * size / elapsed, each * lanes * size / (core_seconds() - cores))

    return job


def core_seconds() -> float:
    """Return the seconds that this process, and the processes it has waited for, have computed on a core."""
    return time.process_time() + sum(os.times()[2:4])


def numbers_of_workers() -> list[int]:
    """Return 1, 2, 4, ... and the number of cores."""
    return sorted({cores(), *(1 << n for n in range(cores().bit_length()))})


def take_turns(jobs: dict[str, Job], seconds: float) -> Iterator[Row]:
    """Run every job once in each round, so that a slower machine slows them all down, and yield a row for each."""
    speeds: dict[str, list[Speeds]] = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            speeds[name].append(job(seconds / ROUNDS))
    for name, found in speeds.items():
        low, middle, high = statistics.quantiles([s.images_per_s for s in found], n=4, method="inclusive")
        per_core_s = statistics.median(s.images_per_core_s for s in found)
        yield {
            "part": name,
            "images_per_s": middle,
            "images_per_s_quartiles": [low, high],
            "images_per_core_s": per_core_s,
            "core_ms": 1e3 / per_core_s,
        }


def conclusion(rows: list[Row]) -> str:
    """Return a sentence on which part takes most of a core's time."""
    costs = {row["part"]: row["core_ms"] for row in rows}
    shares = {
        "reading": costs[READING],
        "decoding": costs[READ_AND_DECODE] - costs[READING],
        "multi-crop": costs[CROPPING],
        "the rest (masks, putting the batch together)": costs[ALONE] - costs[READ_AND_DECODE] - costs[CROPPING],
    }
    shares = {name: max(0.0, cost) for name, cost in shares.items()}  # differences of noisy figures
    most = max(shares, key=lambda name: shares[name])
    words = ", ".join(f"{name} {cost / sum(shares.values()):.0%}" for name, cost in shares.items())
    return f"{most[0].upper()}{most[1:]} takes most of a core's time for an image: {words}."
