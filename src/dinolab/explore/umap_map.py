"""The UMAP of images from their nearest neighbours; above 200,000 of a sample, whose neighbours place the others. N images."""

import atexit
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dinolab.curation.graph import Neighbours, search
from dinolab.errors import UserError
from dinolab.explore.later import Report
from dinolab.explore.maps import fill, place_by_neighbours

MOST = 200_000  # images that UMAP itself places
NEAR = 15  # neighbours of an image, itself among them
PLACED_BY = 5  # neighbours that place an image which is not in the sample
LIMIT = 40.0  # a map's coordinates lie within it, but for points that nothing holds together


def umap_map(unit: Tensor, graph: Neighbours, start: np.ndarray, report: Report, most: int = MOST) -> np.ndarray:
    """A map of all images, float32 (N, 2) in [-1, 1].

    Args:
        unit: features (N, D).
        graph: the nearest neighbours of each image among all, without itself.
        start: where images begin, (N, 2) in [-1, 1].
        most: images that UMAP itself places.
    """
    if len(unit) <= most:
        return fill(torch.from_numpy(embedded(graph, start, report))).numpy()
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.choice(len(unit), most, replace=False))
    rest = np.setdiff1d(np.arange(len(unit)), drawn)
    sample = unit[torch.from_numpy(drawn)]
    points = np.empty((len(unit), 2), np.float32)
    points[drawn] = embedded(search(sample, None, NEAR - 1, rng), start[drawn], report)
    near = search(sample, unit[torch.from_numpy(rest)], PLACED_BY, rng)
    points[rest] = place_by_neighbours(points[drawn], near.indices.numpy(), near.similarities.numpy())
    return fill(torch.from_numpy(points)).numpy()


def embedded(graph: Neighbours, start: np.ndarray, report: Report) -> np.ndarray:
    """UMAP's own coordinates, float32 (N, 2). Raises UserError where it fails."""
    near = min(NEAR - 1, graph.indices.shape[1])
    own = np.arange(len(start))[:, None]
    similarities = graph.similarities[:, :near].numpy()
    missing = np.isneginf(similarities)  # a place without a neighbour
    indices = np.concatenate([own, np.where(missing, own, graph.indices[:, :near].numpy())], 1)
    distances = np.concatenate([np.zeros_like(own), np.where(missing, 0, 1 - similarities).clip(0)], 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.npz"
        np.savez(file, indices=indices, distances=distances.astype(np.float32), start=start.astype(np.float32))
        command = [sys.executable, "-m", "dinolab.explore.umap_process", str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            atexit.register(process.kill)  # where the server ends first
            assert process.stdout and process.stderr
            try:
                for line in process.stdout:
                    if line.strip().replace(".", "", 1).isdecimal():
                        report(float(line))
                problem = process.stderr.read().strip().splitlines()
            finally:
                process.kill()
        if not file.with_suffix(".npy").is_file():
            raise UserError(f"UMAP has ended without a map ({problem[-1] if problem else 'no message'})")
        points = np.load(file.with_suffix(".npy"))
    return np.nan_to_num(points).clip(-LIMIT, LIMIT)
