"""Images of a source as batches of what an encoder sees, with a note of each file; what cannot be read is named."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dinolab.data.decode import BrokenImage, decode, read_file
from dinolab.features.views import View

DIGEST = 16  # bytes

# position in the source, uint8 (3, H, W) or None, what is noted of the file, why there is no image
Item = tuple[int, Tensor | None, bytes, str]
Note = Callable[
    [bytes, np.ndarray], bytes
]  # (a file's content, its image uint8 (H, W, 3)) -> as many bytes for every file
Groups = list[tuple[list[int], Tensor]]  # images of one size, uint8 (n, 3, H, W), with their rows in the batch


def digest(data: bytes, image: np.ndarray) -> bytes:
    """BLAKE2b of a file's content, 16 bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


class Images(Dataset[Item]):
    """Views of the images at some positions of a list of paths."""

    def __init__(self, paths: list[str], view: View, positions: range, note: Note = digest) -> None:
        self.paths, self.view, self.positions, self.note = paths, view, positions, note

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, number: int) -> Item:
        position = self.positions[number]
        path = self.paths[position]
        try:
            data = read_file(path)
            image = decode(data, path)
            view = self.view(position, image, digest(data, image))
            return position, torch.as_tensor(view), self.note(data, image), ""
        except BrokenImage as error:
            return position, None, b"", str(error)


def collate(items: list[Item]) -> tuple[list[int], Groups, list[bytes], list[str]]:
    """Positions of the readable images, those images by their sizes, what is noted of each, and what is wrong with the others."""
    good = [(position, image, digest) for position, image, digest, _ in items if image is not None]
    by_size: dict[torch.Size, list[int]] = {}
    for row, (_, image, _) in enumerate(good):
        by_size.setdefault(image.shape, []).append(row)
    groups = [(rows, torch.stack([good[row][1] for row in rows])) for rows in by_size.values()]
    reasons = [reason for _, image, _, reason in items if image is None]
    return [position for position, _, _ in good], groups, [digest for _, _, digest in good], reasons
