"""A phase of a run put together as `train` does, to take single steps with."""

from collections.abc import Iterator
from dataclasses import replace

from dinolab.data.device_views import Photos
from dinolab.data.types import Source, Views
from dinolab.machine import cores
from dinolab.methods.base import Targets
from dinolab.options import Config
from dinolab.precision import choose_precision
from dinolab.runs.build import assemble, open_batches, workers
from dinolab.training.loop import autocast_of, train_step
from dinolab.training.schedules import Schedules

Batch = list[Views] | list[Photos]


class Rig:
    """The data, model and optimizer of a run that is not going to be kept, as they are in one of its phases."""

    def __init__(self, phase: Schedules, source: Source):
        self.phase, self.cfg, self.source = phase, phase.cfg, source
        _, self.device, self.method, self.optimizer = assemble(self.cfg, source)
        self.method.train()
        self.batch_option = "highres.batch_size" if phase.first else "optim.batch_size"
        self.micro_option = "highres.micro_batch" if phase.first else "run.micro_batch"
        self.cores, self.workers = cores(), workers(self.cfg, self.device)
        self.autocast = choose_precision(self.cfg.run.precision, self.device)
        self.device_views = self.cfg.run.device_views == "always"  # "auto" begins without
        # the first step on which everything is trained, while the learning rate is still low
        self.s = phase(phase.first + min(phase.freeze_prototypes, phase.total - 1))

    def batches(self, workers: int, cfg: Config | None = None) -> Iterator[Batch]:
        """Batches without end, loaded by so many processes; of another size, for example, with another cfg."""
        cfg = cfg or self.cfg
        run = replace(cfg.run, workers=workers, device_views="always" if self.device_views else "never")
        return open_batches(replace(cfg, run=run), self.source, 0, 1 << 40, self.device, say=print)

    def step(self, batch: Batch) -> list[Targets]:
        views = [part.to(self.device) for part in batch]
        precision = autocast_of(self.device, self.autocast)
        return train_step(self.method, self.optimizer, views, self.s, self.cfg.optim.clip, precision)[1]
