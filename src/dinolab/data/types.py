"""What the data side hands on. B images, N patches, L local crops, S and s their sides in pixels."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Views(NamedTuple):
    """The crops of one (micro-)batch; uint8 until they are on the device, normalised there."""

    globals: Tensor  # uint8 (2, B, 3, S, S)
    locals: Tensor  # uint8 (L, B, 3, s, s)
    masks: Tensor | None  # bool (2, B, N), True where the student sees the mask token
    masked: Tensor | None  # int64 (M,), where masks.flatten() is True: to find that on a GPU would stall it
    index: Tensor  # type: ignore[assignment]  # int64 (B,), position of the image in the source
    broken: list[tuple[int, str]]  # (position in the source, reason) of images that could not be read

    def to(self, device: torch.device) -> "Views":
        """The same with what the step needs on the device; from page-locked memory without waiting for the copy."""
        move = [None if x is None else x.to(device, non_blocking=device.type == "cuda") for x in self[:4]]
        return Views(*move, self.index, self.broken)  # type: ignore[arg-type, call-arg]


@dataclass(frozen=True)
class Source:
    """A list of images, with labels where there are any."""

    name: str  # what the user called it
    paths: list[str]  # a location an image: an absolute path, or what storage.py says for shards and tables
    labels: np.ndarray | None  # int64 (len(paths),), positions in classes
    classes: list[str]

    def __len__(self) -> int:
        return len(self.paths)
