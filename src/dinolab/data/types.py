"""What the data side hands on. B images, N patches, L local crops, S and s their sides in pixels."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Views(NamedTuple):
    """The crops of one (micro-)batch; uint8 until they are on the device, normalised there."""

    globals: Tensor  # uint8 (2, B, 3, S, S)
    locals: Tensor  # uint8 (L, B, 3, s, s)
    masks: Tensor | None  # bool (2, B, N), True where the student sees the mask token
    index: Tensor  # type: ignore[assignment]  # int64 (B,), position of the image in the source
    broken: list[tuple[int, str]]  # (position in the source, reason) of images that could not be read


@dataclass(frozen=True)
class Source:
    """A list of images, with labels where there are any."""

    name: str  # what the user called it
    paths: list[str]  # absolute
    labels: np.ndarray | None  # int64 (len(paths),), positions in classes
    classes: list[str]

    def __len__(self) -> int:
        return len(self.paths)
