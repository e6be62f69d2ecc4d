"""From a source to the batches of a run: the samples of samples.py, made by several processes, in order."""

import atexit
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from multiprocessing import queues
from time import perf_counter
from typing import Any

import cv2
from torch.utils.data import DataLoader, Dataset

from dinolab import options
from dinolab.data.device_views import Photos
from dinolab.data.quiet import silence
from dinolab.data.samples import NOTHING, MicroBatches
from dinolab.data.types import Needs, Source, Views
from dinolab.errors import OPEN_FILES, UserError, lacking

SETTLE, WATCH = 10, 20  # steps that pass before waiting is measured, and over which it is
OPEN_AT_MOST = 1 << 16  # files: some programs look at each that the limit allows
WAITING = 0.1  # share of the time spent waiting for images above which crops are left to the device


def adaptive_batches(
    source: Source,
    cfg: options.Config,
    start: int,
    stop: int,
    workers: int,
    pin: bool,
    say: Callable[[str], None],
    share: tuple[int, int] = (0, 1),
    needs: Needs = NOTHING,
) -> Iterator[list[Views] | list[Photos]]:
    """Like `batches` at first; like `photo_batches` from the next step on, once training spends too much time waiting for `batches`.

    The waiting is measured every few steps, since batches loaded ahead hide it at first. `say` is called with a message at the change.
    """
    steps: Generator = batches(source, cfg, start, stop, workers, pin, share, needs)
    since, waited, changed = perf_counter(), 0.0, False
    for step in range(start, stop):
        now = perf_counter()
        if not changed and step >= start + SETTLE and (step - start - SETTLE) % WATCH == 0:
            if step > start + SETTLE and waited > WAITING * (now - since):
                say(
                    f"{waited / (now - since):.0%} of the time went by waiting for images: from here on the device makes "
                    "their crops (run.device_views=never keeps that on the CPU)"
                )
                steps.close()
                steps, changed = photo_batches(source, cfg, step, stop, workers, pin, share, needs), True
            since, waited = now, 0.0
        batch = next(steps)
        waited += perf_counter() - now
        yield batch


def batches(
    source: Source,
    cfg: options.Config,
    start: int,
    stop: int,
    workers: int,
    pin: bool = False,
    share: tuple[int, int] = (0, 1),
    needs: Needs = NOTHING,
) -> Generator[list[Views], None, None]:
    """The batches of steps start .. stop - 1, each as the list of its micro-batches (of `run.micro_batch` images).

    Step s takes samples s * B .. s * B + B - 1 of the run. Epochs follow one another without a gap: a batch may hold
    the end of one and the start of the next.

    Args:
        workers: processes that load; 0 loads in this one. The batches are the same.
        pin: hand over tensors in page-locked memory, for copies to a GPU.
        share: (r, N): the r-th of N equal parts of each batch. The first micro-batches of all parts are together the first
            samples of the batch, and so on.
        needs: what the method needs beside the crops.

    Raises:
        UserError: too many unreadable images in a row, a micro-batch that does not divide the batch, or a dead worker.
    """
    return load(MicroBatches(source, cfg, share, needs=needs), start, stop, workers, pin)


def photo_batches(
    source: Source,
    cfg: options.Config,
    start: int,
    stop: int,
    workers: int,
    pin: bool = False,
    share: tuple[int, int] = (0, 1),
    needs: Needs = NOTHING,
) -> Generator[list[Photos], None, None]:
    """As `batches`, but the crops are still to be made, on the device: the same, up to interpolation and rounding."""
    return load(MicroBatches(source, cfg, share, on_device=True, needs=needs), start, stop, workers, pin)


def load(dataset: "MicroBatches", start: int, stop: int, workers: int, pin: bool) -> Generator[list, None, None]:
    """The items of the data set, made by the loading processes, in lists of one step each."""
    numbers = range(start * dataset.per_step, stop * dataset.per_step)
    ahead = kept_ready(dataset.per_step, workers) or None
    loader = make_loader(dataset, workers, batch_size=None, sampler=numbers, prefetch_factor=ahead, pin_memory=pin)
    micro: list = []
    try:
        for item in loaded(loader, f"a smaller run.workers (now {workers}) or run.micro_batch"):
            if isinstance(item, UserError):
                raise item
            broken = [(index, reason) for index, reason in item.broken]  # which pinning makes lists
            micro.append(item._replace(broken=broken))
            if len(micro) == dataset.per_step:
                yield micro
                micro = []
    except (RuntimeError, OSError) as error:
        if lacking(error) != OPEN_FILES:  # workers hand over each tensor as an open file
            raise
        raise UserError(
            f"run.micro_batch={dataset.micro} and {workers} run.workers need more files open at once than are allowed: "
            "raise the limit (ulimit -n), make run.micro_batch larger, or set run.workers=0"
        ) from error


def make_loader(dataset: Dataset, workers: int, **how: Any) -> DataLoader:
    """A DataLoader with `workers` processes, whose further arguments are `how`.

    On Linux the processes are forked, whichever way Python would choose: others run the user's script again, which ends badly where it
    calls dinolab outside of `if __name__ == "__main__":`.
    """
    if workers:
        allow_open_files()
    forks = "fork" if workers and sys.platform == "linux" else None
    return DataLoader(dataset, num_workers=workers, worker_init_fn=start_worker, multiprocessing_context=forks, **how)


def allow_open_files() -> None:
    """Raise this process's limit of open files as far as it may: the usual 1,024 are few for images that are handed over as files."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_AT_MOST if hard == resource.RLIM_INFINITY else min(hard, OPEN_AT_MOST)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def loaded(loader: DataLoader, way_out: str) -> Iterator[Any]:
    """The items of the loader. Raises UserError with the way out where one of its processes has died."""
    on_child_death = signal.getsignal(signal.SIGCHLD)
    items = iter(loader)
    if loader.num_workers and threading.current_thread() is threading.main_thread():
        # DataLoader's own handler would raise in the middle of whatever the main process is doing when a worker dies.
        # Without it the death is noticed, within seconds, where the next batch is asked for: below.
        signal.signal(signal.SIGCHLD, on_child_death)
    try:
        yield from items
    except (
        RuntimeError,
        EOFError,
        ConnectionError,
    ) as error:  # the latter two where it died while it handed over an image
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise UserError(
            "a process that loads images died, most likely for lack of memory, of space in /dev/shm or of open files (ulimit -n): "
            f"try {way_out}"
        ) from error


def kept_ready(per_step: int, workers: int) -> int:
    """Micro-batches that each process loads ahead: together those of a step and one more each, or every step would begin by waiting."""
    return max(2, math.ceil(per_step / workers) + 1) if workers else 0


def start_worker(_: int) -> None:
    """Called at the start of every process that loads images."""
    silence()
    cv2.setNumThreads(0)  # processes are the parallelism; OpenCV's threads do not survive a fork either
    # or it would print a traceback and go on, and the main process would wait for the lost images for ever
    queues.Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(1))  # type: ignore[attr-defined]
    sys.excepthook = lambda *_: None  # called where images are handed over to a main process that has gone
    for sent_to_all in (signal.SIGINT, signal.SIGTERM):  # the main process alone answers
        signal.signal(sent_to_all, signal.SIG_IGN)


@atexit.register
def end_workers() -> None:
    """End the loading processes with this one. They ignore SIGTERM, by which multiprocessing would end them."""
    for process in multiprocessing.active_children():
        if process.daemon:  # as all that load are; a caller's own that are not shall be waited for, as ever
            process.kill()
