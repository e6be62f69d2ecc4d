"""A step's inputs without data: images of noise, and scheduled values of the middle of a run."""

import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from dinolab.data.loader import batches
from dinolab.data.sources import open_source
from dinolab.data.types import Views
from dinolab.options import Config
from dinolab.runs.build import needs_of
from dinolab.training.phases import Phase, StepValues

EPOCH = 1_281_167  # images of ImageNet-1k; schedules need a length


def values(cfg: Config) -> StepValues:
    """The scheduled values in the middle of a run, where nothing is frozen; a learning rate of 0 keeps every step the same."""
    phase = Phase(cfg, EPOCH)
    return StepValues(phase(phase.total // 2).figures | {"lr": 0.0})


def random_batch(cfg: Config, device: torch.device) -> list[Views]:
    """Return the micro-batches of one step, from the run's own loader, on images of noise."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for n in range(8):
            label = Path(folder, str(n % 2))  # for methods that need labels
            label.mkdir(exist_ok=True)
            cv2.imwrite(f"{label}/{n}.png", rng.integers(0, 256, (256, 256, 3), dtype=np.uint8))
        batch = next(batches(open_source(folder), cfg, 0, 1, workers=0, needs=needs_of(cfg)))
    return [part.to(device) for part in batch]
