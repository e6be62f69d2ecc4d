"""The types that pass between the data and the rest: sources and views.

B images, C channels, N patches, L local crops, S and s sides of crops in pixels.
"""

import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.data.locations import split
from dinolab.data.masks import Masks
from dinolab.pixels import RGB, Pixels


@dataclass(frozen=True)
class Needs:
    """The things beside its crops that a method needs of each image; the loader puts them into Views."""

    masks: Masks | None = None  # block-wise masks of the global crops' patches
    grid: int = 0  # patches along a side of a global crop, for the masks
    labels: bool = False  # the images' labels; sources without labels are then refused
    extra: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = (
        None  # (the image in its full size, uint8 (H, W, 3), draws) -> array of one shape
    )
    places: bool = False  # where in the image each crop was taken from


class Views(NamedTuple):
    """The crops of one (micro-)batch; uint8 until they are on the device, normalised there."""

    global_crops: Tensor  # uint8 (2, B, C, S, S)
    local_crops: Tensor  # uint8 (L, B, C, s, s)
    masks: Tensor | None  # bool (2, B, N), True where the student sees the mask token
    masked: Tensor | None  # int64 (M,), where masks.flatten() is True: to find that on a GPU would stall it
    indices: Tensor  # int64 (B,), position of each image in the source
    broken: list[tuple[int, str]]  # (position in the source, reason) of images that could not be read
    labels: Tensor | None = None  # int64 (B,), if needed
    extra: Tensor | None = None  # (B, ...), if needed
    places: Tensor | None = None  # float32 (B, 2 + L, 5), if needed: see crops.places

    def to(self, device: torch.device) -> "Views":
        """The same with what the step needs on the device; from page-locked memory without waiting for the copy."""

        on_device = ("global_crops", "local_crops", "masks", "masked", "labels", "extra", "places")
        moved = {name: x for name in on_device if (x := getattr(self, name)) is not None}
        return self._replace(**{name: x.to(device, non_blocking=device.type == "cuda") for name, x in moved.items()})


@dataclass(frozen=True)
class Source:
    """A list of images, with labels where there are any. N images."""

    name: str  # as the user named it
    paths: list[
        str
    ]  # the location of each image (see locations.py): for an image in a file of its own, the absolute path
    labels: np.ndarray | None  # int64 (N,), positions in classes
    classes: list[str]
    pixels: Pixels = RGB
    unlabelled: str = ""  # why there are no labels
    read_by: dict[str, str] = field(
        default_factory=dict
    )  # the options of `Columns` that were chosen to read it, by name

    def __len__(self) -> int:
        return len(self.paths)

    def files(self) -> list[str]:
        """Address of each file, or saved dataset, that holds images, once."""
        return list(dict.fromkeys(split(path)[1][0] for path in self.paths))

    def names(self) -> list[str]:
        """The name of each image below the folder that all files share; in shards and datasets, FILE/NAME or FILE/ROW."""
        parts = [split(path)[1] for path in self.paths]
        files = [as_path(file) for file, *_ in parts]
        root = os.path.commonpath({os.path.dirname(file) for file in files})
        return ["/".join([os.path.relpath(file, root), *inside[-1:]]) for file, (_, *inside) in zip(files, parts)]

    def fingerprint(self) -> str:
        """A hash of the images' names and labels. It does not change when the folder moves or the images are changed."""
        labels = [] if self.labels is None else [self.classes[label] for label in self.labels]
        lines = (f"{name}\0{label}\n" for name, label in sorted(zip(self.names(), labels)))
        return hashlib.blake2b("".join(lines).encode(errors="surrogateescape"), digest_size=16).hexdigest()

    def checksum(self) -> int:
        """A CRC-32 of the images' names and places in their files, in order. It does not change when the folder moves."""
        places = [as_path("\0".join(split(path)[1])) for path in self.paths]
        root = os.path.commonpath({os.path.dirname(place.split("\0")[0]) for place in places})
        return zlib.crc32("\n".join(place[len(root) :] for place in places).encode(errors="surrogateescape"))


def as_path(address: str) -> str:
    """The address of a file in the form that os.path handles as a path."""
    return address.replace("://", ":/")
