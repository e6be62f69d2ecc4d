"""A phase of a run, put together as training does, for single steps."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from dinolab.data.device_views import Photos
from dinolab.data.types import Source, Views
from dinolab.machine import cores
from dinolab.methods.base import Logs
from dinolab.options import Config
from dinolab.precision import autocast, choose_precision
from dinolab.runs.build import assemble, open_batches, workers
from dinolab.training.loop import mean_over_parts, train_step
from dinolab.training.phases import Phase

Batch = list[Views] | list[Photos]


class Rig:
    """The data, networks and optimizer of a run in one of its phases; nothing of it is saved."""

    def __init__(self, phase: Phase, source: Source):
        self.phase, self.cfg, self.source = phase, phase.cfg, source
        _, self.device, self.method, self.optimizer = assemble(self.cfg, source)
        self.method.train()
        self.batch_option = "highres.batch_size" if phase.first else "optim.batch_size"
        self.micro_option = "highres.micro_batch" if phase.first else "run.micro_batch"
        self.cores, self.workers = cores(), workers(self.cfg, self.device)
        self.autocast = choose_precision(self.cfg.run.precision, self.device)
        self.device_views = self.cfg.run.device_views == "always"  # "auto" begins without
        # the first step on which everything is trained, while the learning rate is still low
        self.s = phase(phase.everything_trained)

    def batches(self, workers: int, cfg: Config | None = None) -> Iterator[Batch]:
        """Return an endless stream of batches, loaded by this number of processes; a cfg changes, for example, their size."""
        cfg = cfg or self.cfg
        run = replace(cfg.run, workers=workers, device_views="always" if self.device_views else "never")
        return open_batches(replace(cfg, run=run), self.source, 0, 1 << 40, self.device, say=print)

    def step(self, batch: Batch) -> tuple[list[Logs], list[Any]]:
        """One training step; returns each micro-batch's parts of the loss and its targets."""
        views = [part.to(self.device) for part in batch]
        precision = autocast(self.device, self.autocast)
        return train_step(self.method, self.optimizer, views, self.s, self.cfg.optim, precision)[:2]

    def log_figures(self, parts: list[Logs], targets: list[Any]) -> dict[str, float]:
        """Compute the figures of a line of the log, as training does."""
        means = mean_over_parts(parts)
        return means | self.method.figures(targets, means)
