"""UMAP (arXiv 1802.03426) in a process of its own: it would hold up the server's threads. `python -m dinolab.explore.umap_process FILE`.

FILE.npz holds the nearest neighbours and where points begin; the process adds FILE.npy with the map. It prints the share that is done,
a number on each line.
"""

import sys
import warnings
from pathlib import Path

import numpy as np

SPREAD = 10.0  # UMAP's maps begin in [-10, 10]


class Shares:
    """A file for tqdm, which writes percentages into it, that prints shares."""

    def write(self, text: str) -> None:
        word = text.strip("\r\n %")
        if word.isdecimal():
            print(int(word) / 100, flush=True)

    def flush(self) -> None: ...


def main(file: Path) -> None:
    """Compute the map of the neighbours in a file.

    The arrays are indices int64 (N, k), each image itself first; distances float32 (N, k), 1 - cosine similarity; start float32 (N, 2).
    """
    warnings.simplefilter("ignore")
    import umap

    with np.load(file) as arrays:
        indices, distances, start = (arrays[name] for name in ("indices", "distances", "start"))
    how = umap.UMAP(
        n_neighbors=indices.shape[1], precomputed_knn=(indices, distances), init=SPREAD * start, verbose=True,
        force_approximation_algorithm=True, tqdm_kwds={"file": Shares(), "bar_format": "{percentage:.0f}"},
    )  # fmt: skip
    np.save(file.with_suffix(".npy"), how.fit(start).embedding_.astype(np.float32))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
