"""A run put together as `train` does, to take single steps with."""

from collections.abc import Iterator
from dataclasses import replace

from dinolab.data.device_views import Photos
from dinolab.data.types import Views
from dinolab.machine import cores
from dinolab.methods.base import Targets
from dinolab.options import Config
from dinolab.setup import assemble, choose_autocast, open_batches, open_data, workers
from dinolab.training.loop import autocast_of, train_step

Batch = list[Views] | list[Photos]


class Rig:
    """The data, model and optimiser of a run that is not going to be kept."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.source = open_data(cfg, cache=None)
        self.schedules, self.device, self.method, self.optimizer = assemble(cfg, self.source)
        self.method.train()
        self.cores, self.workers = cores(), workers(cfg, self.device)
        self.autocast = choose_autocast(cfg.run.precision, self.device)
        self.device_views = cfg.run.device_views == "always"  # "auto" begins without
        # the first step on which everything is trained, while the learning rate is still low
        self.s = self.schedules(min(self.schedules.freeze_prototypes, self.schedules.total - 1))

    def batches(self, workers: int, cfg: Config | None = None) -> Iterator[Batch]:
        """Batches without end, loaded by so many processes; of another size, for example, with another cfg."""
        cfg = cfg or self.cfg
        run = replace(cfg.run, workers=workers, device_views="always" if self.device_views else "never")
        return open_batches(replace(cfg, run=run), self.source, 0, 1 << 40, self.device, say=print)

    def step(self, batch: Batch) -> list[Targets]:
        views = [part.to(self.device) for part in batch]
        precision = autocast_of(self.device, self.autocast)
        return train_step(self.method, self.optimizer, views, self.s, self.cfg.optim.clip, precision)[1]
