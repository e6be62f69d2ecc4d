"""Training images that are augmented anew each time they are used, for the evaluations that train on images.

Sample n belongs to epoch n // images, and its view is a function of (seed, n) alone: the number of workers changes nothing.
"""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dinolab.data import draws
from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.loader import loaded, make_loader
from dinolab.errors import UserError

# an image, uint8 (H, W, 3), and its draws -> uint8 (3, h, w)
View = Callable[[np.ndarray, np.random.Generator], Tensor]
Item = tuple[Tensor, int] | str  # a view and its label, or why there is none


class Training(NamedTuple):
    """How long an evaluation trains, in batches of what size, and with which learning rates."""

    epochs: int
    batch_size: int
    rates: tuple[float, ...]  # learning rates for batches of 256, to be scaled by their size

    def steps(self, images: int, batch_size: int) -> int:
        """The number of steps that the epochs are with so many images."""
        return max(1, self.epochs * images // batch_size)


class Augmented(Dataset[Item]):
    """Item n is the n-th sample of the training: an augmented view and its label."""

    def __init__(self, paths: list[str], labels: Tensor, view: View, seed: int) -> None:
        self.paths, self.labels, self.view, self.seed = paths, labels, view, seed
        self.epoch, self.order = -1, np.empty(0, int)

    def __len__(self) -> int:
        return len(self.paths)

    def checksum(self) -> int:
        """CRC-32 of the images' names and labels, in their order."""
        lines = (f"{Path(path).name}\0{label}\n" for path, label in zip(self.paths, self.labels.tolist()))
        return zlib.crc32("".join(lines).encode(errors="surrogateescape"))

    def __getitem__(self, number: int) -> Item:
        epoch, place = divmod(number, len(self))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, draws.rng(self.seed, draws.EPOCH, epoch).permutation(len(self))
        position = self.order[place]
        try:
            image = read_image(self.paths[position])
        except BrokenImage as error:
            return str(error)
        return self.view(image, draws.rng(self.seed, draws.SAMPLE, number)), int(self.labels[position])


def batches(
    images: Augmented, steps: int, batch_size: int, device: str | torch.device, workers: int, start: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Views uint8 (B, 3, h, w) and labels int64 (B,) of each step after the first `start`, on the device.

    A batch may span two epochs. Raises UserError where an image can no longer be read, or a process that loads images has died.
    """
    on_cuda = torch.device(device).type == "cuda"
    numbers = range(start * batch_size, steps * batch_size)
    loader = make_loader(
        images, workers, batch_size=batch_size, sampler=numbers, collate_fn=collate, pin_memory=on_cuda
    )
    for batch in loaded(loader, f"fewer workers (now {workers}) or a smaller batch size"):
        if isinstance(batch, str):
            raise UserError(f"{batch}; it could be read before")
        views, labels = batch
        yield views.to(device, non_blocking=on_cuda), labels.to(device, non_blocking=on_cuda)


def collate(items: list[Item]) -> tuple[Tensor, Tensor] | str:
    """The batch, or what is wrong with one of its images."""
    good = [item for item in items if not isinstance(item, str)]
    if len(good) < len(items):
        return next(item for item in items if isinstance(item, str))
    return torch.stack([view for view, _ in good]), torch.tensor([label for _, label in good])
