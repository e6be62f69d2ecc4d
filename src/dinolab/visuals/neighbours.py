"""A query and the images most alike to it, by the class token's cosine similarity."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.types import Source
from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.models.encoder import evaluating
from dinolab.visuals.images import read_picture
from dinolab.visuals.sheet import Cell, Row, enlarge, write_sheet

BATCH = 64

log = logging.getLogger(__name__)


class Neighbour(NamedTuple):
    position: int  # in the source
    similarity: float


def neighbours(
    encoder: Any, queries: Sequence[np.ndarray], source: Source, k: int, size: int, progress: bool = False
) -> list[list[Neighbour]]:
    """For each query, uint8 (H, W, 3), its k nearest images of the source, nearest first; fewer if it has no more.

    All are seen as `size` x `size` evaluation views. The source is gone through once and no features are kept.
    Unreadable images are left out with a warning; UserError if none can be read.
    """
    with evaluating(encoder):
        views = torch.stack([torch.from_numpy(eval_view(query, size)) for query in queries])
        asked = F.normalize(torch.cat([encoder(part).cls.float().cpu() for part in views.split(BATCH)]), dim=1)
        best = torch.empty(len(queries), 0)
        which = torch.empty(len(queries), 0, dtype=torch.int64)
        for positions, images in batches(source, size, progress):
            similarity = asked @ F.normalize(encoder(images).cls.float().cpu(), dim=1).T
            best, which = torch.cat([best, similarity], 1), torch.cat([which, positions.expand(len(asked), -1)], 1)
            best, order = best.topk(min(k, best.shape[1]))
            which = which.gather(1, order)
    if not best.shape[1]:
        raise UserError(f"{source.name}: none of its {len(source)} images can be read")
    return [[Neighbour(*pair) for pair in zip(*row, strict=True)] for row in zip(which.tolist(), best.tolist())]


def batches(source: Source, size: int, progress: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions int64 (b,) and views uint8 (b, 3, S, S) of the readable images, BATCH at most at a time."""
    broken: list[str] = []
    kept: list[tuple[int, Tensor]] = []
    paths = track(
        source.paths, "looking for neighbours", len(source), console=Console(stderr=True), disable=not progress
    )
    for position, path in enumerate(paths):
        try:
            kept.append((position, torch.from_numpy(eval_view(read_image(path), size))))
        except BrokenImage as error:
            broken.append(str(error))
        if kept and (len(kept) == BATCH or position == len(source) - 1):
            yield torch.tensor([n for n, _ in kept]), torch.stack([view for _, view in kept])
            kept = []
    if broken:
        log.warning("%s: %d images cannot be read and are left out; %s", source.name, len(broken), broken[0])


def neighbours_sheet(
    encoder: Any, queries: Sequence[Path], source: Source, k: int, size: int, out: Path, progress: bool = False
) -> None:
    """PNG with a row a query: its image, then its k nearest of the source with their similarity, and class if it has any.

    A query that lies in the source itself is not its own neighbour.
    """
    pictures = [read_picture(path) for path in queries]
    found = neighbours(encoder, pictures, source, k + 1, size, progress)
    rows: list[Row] = []
    for path, picture, near in zip(queries, pictures, found, strict=True):
        own = os.path.abspath(path)  # as a source lists it
        others = [n for n in near if source.paths[n.position] != own][:k]
        rows.append([Cell(show(picture, size), "query", (0, 0, 0)), *(cell(source, n, size) for n in others)])
    note = f"Nearest of {len(source):,} images by cosine similarity of the class token."
    write_sheet(rows, out, note)


def cell(source: Source, near: Neighbour, size: int) -> Cell:
    name = "" if source.labels is None else source.classes[source.labels[near.position]]
    short = name if len(name) <= 12 else name[:11] + "…"
    return Cell(
        show(read_image(source.paths[near.position]), size),
        f"{short}: {near.similarity:.2f}" if short else f"{near.similarity:.2f}",
    )


def show(picture: np.ndarray, size: int) -> np.ndarray:
    """What the encoder sees of it, enlarged to be seen."""
    return enlarge(torch.from_numpy(eval_view(picture, size)))
