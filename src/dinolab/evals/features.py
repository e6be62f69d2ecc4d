"""Class tokens of every image of a source: what k-NN, the linear probe and retrieval work on."""

import logging
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.loader import start_worker
from dinolab.data.types import Source
from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.models.encoder import evaluating

log = logging.getLogger(__name__)
NAMED = 5  # broken images that the warning names; the rest are counted

Item = tuple[int, Tensor | None, str]  # (position in the source, uint8 (3, S, S) or None, why there is no image)


class Images(Dataset[Item]):
    def __init__(self, paths: list[str], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Item:
        try:
            return position, torch.as_tensor(eval_view(read_image(self.paths[position]), self.size)), ""
        except BrokenImage as error:
            return position, None, str(error)


def collate(items: list[Item]) -> tuple[list[int], Tensor, list[str]]:
    """Positions of the readable images (b,), those images (b, 3, S, S), and what is wrong with the others."""
    good = [(position, image) for position, image, _ in items if image is not None]
    images = torch.stack([image for _, image in good]) if good else torch.empty(0)
    return [position for position, _ in good], images, [reason for _, image, reason in items if image is None]


def extract(
    encoder: Any,
    source: Source,
    size: int,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    workers: int = 0,
    progress: bool = True,
) -> tuple[Tensor, Tensor]:
    """Class tokens float32 (N, D) and labels int64 (N,), -1 without labels; both on the CPU, in the source's order.

    Images are read as `size` x `size` evaluation views by `workers` processes; the encoder is moved to `device`.
    Unreadable images are left out of both tensors, with one warning. Raises UserError if not one can be read.
    """
    device = torch.device(device)
    loader = DataLoader(
        Images(source.paths, size),
        batch_size,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
        pin_memory=device.type == "cuda",
    )
    encoder.to(device)
    features = torch.empty(len(source), encoder.dim)  # allocated once: a million rows are too many to copy
    kept: list[int] = []
    broken: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with evaluating(encoder), Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(f"features of {escape(source.name)}", total=len(source))
        for positions, images, reasons in loader:
            if positions:
                cls = encoder(images.to(device, non_blocking=device.type == "cuda")).cls
                features[len(kept) : len(kept) + len(positions)] = cls.float().cpu()
            kept += positions
            broken += reasons
            bar.advance(task, len(positions) + len(reasons))

    if not kept:
        raise UserError(f"{source.name}: none of its {len(source)} images can be read; {'; '.join(broken[:1])}")
    if broken:
        rest = f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        count = f"{len(broken)} of {len(source)} images cannot be read and are left out"
        log.warning("%s: %s: %s%s", source.name, count, "; ".join(broken[:NAMED]), rest)
    labels = torch.full((len(source),), -1) if source.labels is None else torch.as_tensor(source.labels).long()
    return features[: len(kept)], labels[kept]
