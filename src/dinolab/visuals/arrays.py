"""The numbers behind a picture, as NumPy arrays in a file of their own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dinolab.files import beside


def write_arrays(out: Path, paths: Sequence[Path], maps: Mapping[str, Sequence[Tensor]]) -> None:
    """Write maps on the patch grid as an .npz file, which `numpy.load` reads.

    Args:
        out: the file.
        paths: of the images, in the order of the picture; the array `images` holds them.
        maps: by name, one for each image. The map `attention` of the first image becomes the array `attention_1`.
    """
    arrays: dict[str, Any] = {
        f"{name}_{n}": one.cpu().numpy() for name, several in maps.items() for n, one in enumerate(several, 1)
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with beside(out) as place, place.open("wb") as file:
        np.savez_compressed(file, images=np.array([str(path) for path in paths]), **arrays)
