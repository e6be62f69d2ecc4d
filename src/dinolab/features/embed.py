"""`dinolab.embed`: an encoder and images in, features out."""

from pathlib import Path
from typing import Any

import numpy as np

from dinolab.config import keyword_options
from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.features.inputs import Encodes, Extraction, extraction_arguments, open_encoder, python_options
from dinolab.features.options import EmbedOptions
from dinolab.files import beside
from dinolab.progress import NOTEBOOK


def embed(
    encoder: Encodes,
    data: str | Path | Source,
    out: str | Path | None = None,
    *,
    progress: bool = NOTEBOOK,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Features of all images that can be read.

    Args:
        encoder: a network, or what `dinolab.load` takes, or "pixels".
        data: images, as `data.path` takes them, or an opened source.
        out: an .npz file to write the arrays to as well.
        progress: show progress bars; by default in a notebook only.
        options: size, precision, device, workers, cache, patches, and the columns of `data`, see `dinolab embed --help`. By default the
            encoder stays where it is (one that is named is loaded on the CPU), and no processes are started.

    Returns:
        cls float32 (N, D); patches float32 (N, D), their mean, if asked for; labels int64 (N,), -1 without labels; classes, their
        names; names of the images (N,).

    Raises:
        UserError: nothing can be read, an option is wrong, or `out` is no .npz file in a folder that exists.
    """
    source = data if isinstance(data, Source) else None
    words = {"data": source.name if source else data, "out": out, **options}
    chosen = keyword_options(EmbedOptions, python_options(encoder, words), see="dinolab embed --help")
    return run_embed(encoder, chosen, progress, source)


def run_embed(
    encoder: Encodes, options: EmbedOptions, progress: bool = False, source: Source | None = None
) -> dict[str, np.ndarray]:
    """`embed` with its options read; `source` takes the place of `options.data`."""
    file = Path(options.out) if options.out else None
    if file and (file.suffix != ".npz" or not file.parent.is_dir()):
        raise UserError(f"out={file}: name a file that ends in .npz, in a folder that exists")
    network = open_encoder(encoder)[1]
    asked_for = "label_column" in options.chosen()  # who names a column wants its labels
    source = source or open_source(options.data, options, need_labels=asked_for, option="data")
    how = Extraction(**extraction_arguments(network, options, progress))
    found = how.extract(network, source, patches=options.patches)
    arrays = {"cls": found.matrix().numpy()}
    if options.patches:
        arrays["patches"] = found.patches.numpy()
    arrays |= {"labels": found.labels.numpy(), "classes": np.array(source.classes, str)}
    arrays["names"] = np.array(source.names(), str)[found.kept.numpy()]
    if file:
        with beside(file) as place, place.open("wb") as opened:
            np.savez(opened, **arrays)  # type: ignore[arg-type]
    return arrays
