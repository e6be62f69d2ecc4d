"""`dinolab.embed`: an encoder and images in, features out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.inputs import open_device, open_encoder, refuse_below, refuse_unknown
from dinolab.features.cache import FOLDER
from dinolab.features.extract import PRECISIONS, extract
from dinolab.files import beside


def embed(
    encoder: str | Path | nn.Module,
    data: str | Path | Source,
    out: str | Path | None = None,
    *,
    patches: bool = False,
    size: int | tuple[int, int] | None = None,
    precision: str = "fp32",
    device: str | torch.device | None = None,
    workers: int = 0,
    cache: str | Path | None = FOLDER,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Features of all readable images, also written to `out`, an .npz, if it is given. Arguments as those of `evaluate`.

    Returns:
        cls float32 (N, D); patches float32 (N, D), their mean, if asked for; labels int64 (N,), -1 without labels;
        classes, their names; names of the images (N,).

    Raises:
        UserError: nothing readable, an unknown setting, or `out` is no .npz or in a folder that is not there.
    """
    refuse_unknown("precision", precision, PRECISIONS)
    refuse_below(1, size=size)
    refuse_below(0, workers=workers)
    file = Path(out) if out else None
    if file and (file.suffix != ".npz" or not file.parent.is_dir()):
        raise UserError(f"--out {file}: name a file that ends in .npz, in a folder that is there")
    _, encoder, size = open_encoder(encoder, size)
    source = data if isinstance(data, Source) else open_source(str(data), option="--data")
    device = open_device(device, encoder)
    options: dict[str, Any] = {"device": device, "workers": workers, "progress": progress, "precision": precision}
    found = extract(encoder, source, size, patches=patches, cache=Path(cache) if cache else None, **options)
    arrays = {"cls": found.matrix().numpy()}
    if patches:
        arrays["patches"] = found.patches.numpy()
    arrays |= {"labels": found.labels.numpy(), "classes": np.array(source.classes, str)}
    arrays["names"] = np.array(source.names(), str)[found.kept.numpy()]
    if file:
        with beside(file) as place, place.open("wb") as opened:
            np.savez(opened, **arrays)  # type: ignore[arg-type]
    return arrays
