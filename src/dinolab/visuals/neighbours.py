"""An image and the images most similar to it, by the class token's cosine similarity."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.data.decode import read_image
from dinolab.data.types import Source
from dinolab.data.views import eval_view
from dinolab.features.extract import extract
from dinolab.features.neighbours import nearest
from dinolab.models.encoder import evaluating, refuse_infinite
from dinolab.plotting import readable
from dinolab.visuals.images import read_picture
from dinolab.visuals.sheet import Cell, Row, enlarge, write_sheet

BATCH = 64  # query images in a forward


class Neighbour(NamedTuple):
    position: int  # in the source
    similarity: float  # cosine, in [-1, 1]


def neighbours(
    encoder: Any, queries: Sequence[np.ndarray], source: Source, k: int, size: int, progress: bool = False
) -> list[list[Neighbour]]:
    """Find the k images of a source that are most similar to each query.

    Args:
        encoder: it sees every image as an evaluation view of `size` x `size` pixels.
        queries: uint8 (H, W, 3) each, of any sizes.
        source: the reference set. Unreadable images are left out with a warning.
        progress: show a bar on stderr.

    Returns:
        For each query its neighbours, most similar first; fewer than k where the source has no more.

    Raises:
        UserError: no image of the source can be read.
    """
    reference = extract(encoder, source, size, BATCH, device=device_of(encoder), progress=progress, stored=True)
    similarities, rows = nearest(reference.blocks[-1], class_tokens(encoder, queries, size), k)
    positions = reference.kept[rows]
    return [
        [Neighbour(*pair) for pair in zip(*row, strict=True)]
        for row in zip(positions.tolist(), similarities.tolist(), strict=True)
    ]


def class_tokens(encoder: Any, queries: Sequence[np.ndarray], size: int | tuple[int, int]) -> Tensor:
    """Return the queries' class tokens, float32 (queries, D), on the CPU."""
    views = torch.stack([torch.from_numpy(eval_view(query, size)) for query in queries])
    with evaluating(encoder):
        tokens = torch.cat([encoder(part).cls.float().cpu() for part in views.split(BATCH)])
    refuse_infinite(tokens, encoder)
    return tokens


def device_of(encoder: Any) -> torch.device:
    """Return the device on which the encoder's parameters lie; an encoder without any is on the CPU."""
    return next((parameter.device for parameter in encoder.parameters()), torch.device("cpu"))


def neighbours_sheet(
    encoder: Any, queries: Sequence[Path], source: Source, k: int, size: int, out: Path, progress: bool = False
) -> None:
    """Draw a PNG with a row for each query: its image, then the k most similar images of the source.

    Each neighbour's title is its class, if the source has classes, and its similarity. A query that is itself in the source is
    not its own neighbour.
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
    """Return a neighbour's picture with its class, shortened, and its similarity as title."""
    name = "" if source.labels is None else readable(source.classes[source.labels[near.position]])
    short = name if len(name) <= 12 else name[:11] + "…"
    title = f"{short}: {near.similarity:.2f}" if short else f"{near.similarity:.2f}"
    return Cell(show(read_image(source.paths[near.position]), size), title)


def show(picture: np.ndarray, size: int) -> np.ndarray:
    """Return the evaluation view that the encoder sees, enlarged for the eye."""
    return enlarge(torch.from_numpy(eval_view(picture, size)))
