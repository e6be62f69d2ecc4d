"""A frozen encoder that sees the student's global crops in every step.

whole.py has one that sees whole images, with the same methods.

Shapes: B images, G views of each that the encoder sees (2 crops, or 1 whole image), n patches along a side of a global crop of S
pixels, N patches of a view, D width of the encoder's features.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.data.types import Source, Views
from dinolab.models.encoder import Encoder, Features


class Seen(NamedTuple):
    """What a frozen encoder says of a micro-batch's images."""

    cls: Tensor  # (G, B, D)
    patches: Tensor  # (2 B, n, n, D), at the patches of the global crops; of any shape if they are not wanted
    inside: Tensor | None  # bool (2 B, n, n), whether it has seen that patch; None: it has seen all


class Sees(Protocol):
    """How a frozen encoder comes by what it says."""

    views: int  # G
    dim: int  # D of class tokens
    patch_dim: int  # D of patches; 0 where there are none
    patches_each: int  # N

    def open(self, source: Source, device: torch.device, workers: int, precision: str) -> None:
        """Compute what is kept of all images."""

    def seen(self, views: Views) -> Seen:
        """What the encoder says of a micro-batch."""
        ...

    def inputs(self, batches: Iterable[list[Views]], most: int, device: torch.device) -> Iterator[Tensor]:
        """What `look` takes, (G, B, ...), of the run's first images, whole steps until they are `most` or more."""
        ...

    def look(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Class tokens (G, B, D) and patches (G, B, N, D)."""
        ...


class OnCrops:
    """See `Sees`. The patches lie on the student's grid."""

    views = 2

    def __init__(self, encoder: Encoder, patch_size: int, size: int, seen_size: int, patches: bool, as_many: bool):
        """
        Args:
            patch_size: the student's.
            size: side of the global crops, S.
            seen_size: side to which they are resized before the encoder sees them (0: as they are).
            patches: whether they are wanted.
            as_many: resize the crops so that the encoder has as many patches as the student.
        """
        self.encoder, self.patch_size, self.seen_size = encoder, patch_size, seen_size
        self.patches, self.as_many = patches, as_many
        with torch.no_grad():
            blank = self.features(torch.zeros(2, 1, encoder.pixels.channels, size, size, dtype=torch.uint8))
        self.dim, self.patch_dim = blank.cls.shape[-1], blank.patches.shape[-1] if blank.patches.numel() else 0
        self.patches_each = grid(size, patch_size) ** 2

    def features(self, crops_2B: Tensor) -> Features:
        """The encoder's features of global crops (2, B, C, S, S); its patches, if they are wanted, on the student's grid.

        With `as_many` the crops are resized to as many of its patches as the student has, or to a multiple as many, which is then
        averaged: patches of 14 beside the student's 16 see 224 pixels as 196, those of 8 as 224, four to one of the student's. A map
        that still has another grid is resampled bilinearly.
        """
        images = crops_2B.flatten(0, 1)
        size, each, theirs = images.shape[-1], 1, self.encoder.patch_size
        n, side = grid(size, self.patch_size), self.seen_size or size
        if self.as_many:
            each = max(1, round(self.patch_size / theirs))
            side = n * each * theirs
        if side != size:
            images = F.interpolate(images.float() / 255, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        features = self.encoder(images)
        if not self.patches:
            return features
        maps = features.patches.movedim(-1, 1)
        if each > 1:
            maps = F.avg_pool2d(maps, each)
        if maps.numel() and maps.shape[-2:] != (n, n):
            maps = F.interpolate(maps, (n, n), mode="bilinear")
        return features._replace(patches=maps.movedim(1, -1))

    def open(self, source: Source, device: torch.device, workers: int, precision: str) -> None:
        """Nothing is kept."""

    def seen(self, views: Views) -> Seen:
        features = self.features(views.global_crops)
        return Seen(features.cls.unflatten(0, (2, -1)), features.patches, None)

    def inputs(self, batches: Iterable[list[Views]], most: int, device: torch.device) -> Iterator[Tensor]:
        count = 0
        for step in batches:
            yield torch.cat([part.to(device).global_crops for part in step], 1)
            count += sum(len(part.indices) for part in step)
            if count >= most:
                break

    def look(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.features(inputs)
        return seen.cls.unflatten(0, (2, -1)), seen.patches.flatten(1, 2).unflatten(0, (2, -1))


def grid(size: int, patch_size: int) -> int:
    """Patches along a side of `size` pixels (a convolution begins one for the rest)."""
    return -(-size // patch_size)
