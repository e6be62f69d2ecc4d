"""Classes of patches: by a linear layer, and without training by nearest neighbours or by clusters.

N patches of a memory bank, T patches of an image, C features of a patch, K classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.data import draws
from dinolab.errors import UserError
from dinolab.evals.dense import Sample, Tokens, TrainingSamples
from dinolab.evals.label_maps import IGNORED
from dinolab.progress import track

LINES = 64  # rows and columns
TEMPERATURE = 0.02  # of the neighbours' weights
ROWS = 4096  # patches whose neighbours are searched at once
RESTARTS = 5  # of k-means

Labeller = Callable[[Tensor], Tensor]  # features of patches, float32 (T, C) -> scores of classes (T, K)


class LinearLabels(nn.Module):
    """Batch norm without class token, and a linear layer, as DINOv2's segmentation head."""

    def __init__(self, width: int, classes: int, generator: torch.Generator):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.linear = nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """Logits (T, K) of patches (T, C)."""
        return self.linear(self.norm(patches))

    def loss(self, samples: list[Sample], step: int, draw: np.random.Generator) -> Tensor:
        """Cross-entropy at the pixels where random rows and columns of an image cross, whose logits are interpolated.

        This has the expectation of the loss over all pixels, at a small part of its cost. The mean is over all pixels of the batch
        that have a class.
        """
        device = self.linear.weight.device
        flat = [sample.tokens.patches.flatten(0, 1) for sample in samples]
        logits = self(torch.cat(flat).to(device).float()).split([len(patches) for patches in flat])
        outputs, targets = [], []
        for sample, found in zip(samples, logits):
            grid = (sample.tokens.patches.shape[0], sample.tokens.patches.shape[1])
            rows, columns = (
                torch.from_numpy(draw.permutation(side)[:LINES]) for side in sample.view.image
            )  # without repeats
            down, across = sample.view.matrices(grid, device)
            values = down[rows.to(device)] @ (found.T.unflatten(1, grid) @ across[columns.to(device)].T)
            outputs.append(values.flatten(1).T)
            targets.append(sample.truth[rows][:, columns].flatten().to(device).long())
        truth = torch.cat(targets)
        total = F.cross_entropy(torch.cat(outputs), truth, ignore_index=IGNORED, reduction="sum")
        return total / (truth != IGNORED).sum().clamp(min=1)


class Bank(NamedTuple):
    """Patches of training images, and the pixels of each class in them."""

    features: Tensor  # float32 (N, C), of length 1
    counts: Tensor  # float32 (N, K)

    @staticmethod
    def sample(samples: TrainingSamples, size: int, classes: int, seed: int, progress: bool) -> "Bank":
        """About `size` random patches that have pixels with a class, equally many of each image."""
        each = max(1, size // len(samples))
        features, counts = [], []
        for number in track(range(len(samples)), "memory bank of patches", len(samples), progress):
            sample = samples[number]
            h, w, _ = sample.tokens.patches.shape
            found = count_classes(sample, (h, w), classes)
            known = found.sum(1).nonzero()[:, 0].numpy()
            rows = torch.from_numpy(draws.rng(seed, draws.SHOTS, number).permutation(known)[:each])
            features.append(F.normalize(sample.tokens.patches.flatten(0, 1)[rows].float(), dim=1))
            counts.append(found[rows])
        return Bank(torch.cat(features), torch.cat(counts))


def count_classes(sample: Sample, grid: tuple[int, int], classes: int) -> Tensor:
    """Numbers of pixels of each class in each patch, float32 (h * w, K)."""
    cells, labels = sample.view.cells(grid).flatten(), sample.truth.flatten().long()
    known = labels != IGNORED
    numbers = cells[known] * classes + labels[known]
    return torch.bincount(numbers, minlength=grid[0] * grid[1] * classes).view(-1, classes).float()


def by_neighbours(bank: Bank, k: int) -> Labeller:
    """The shares of classes in the k most similar patches of the bank, weighted by exp(cosine / 0.02), as in arXiv 2306.01667."""
    shares = bank.counts / bank.counts.sum(1, keepdim=True)
    k = min(k, len(shares))

    def label(patches: Tensor) -> Tensor:
        found = []
        for rows in F.normalize(patches, dim=1).split(ROWS):
            similarity, nearest = (rows @ bank.features.to(rows.device).T).topk(k, dim=1)
            weights = (similarity / TEMPERATURE).softmax(1)
            found.append(torch.einsum("tk,tkc->tc", weights, shares.to(rows.device)[nearest]))
        return torch.cat(found)

    return label


def by_clusters(bank: Bank, seed: int) -> tuple[Labeller, dict[str, Any]]:
    """Clusters of the bank's patches by k-means, as many as classes, each matched to one class by the Hungarian method.

    The matching maximises the pixels of the bank whose class is right. Raises UserError where the bank has too few patches.
    """
    from scipy.optimize import linear_sum_assignment  # here: both take a while to import
    from sklearn.cluster import KMeans

    classes = bank.counts.shape[1]
    if len(bank.features) < classes:
        raise UserError(f"{len(bank.features)} patches cannot make {classes} clusters; name more training images")
    means = KMeans(classes, n_init=RESTARTS, random_state=seed).fit(bank.features.numpy())
    contingency = np.zeros((classes, classes))
    np.add.at(contingency, means.labels_, bank.counts.numpy())
    clusters, matched = linear_sum_assignment(contingency, maximize=True)
    centres = torch.from_numpy(means.cluster_centers_[clusters[np.argsort(matched)]]).float()  # in the order of classes

    def label(patches: Tensor) -> Tensor:
        nearest = torch.cdist(F.normalize(patches, dim=1), centres.to(patches.device)).argmin(1)
        return F.one_hot(nearest, classes).float()

    return label, {"matched": float(contingency[clusters, matched].sum() / contingency.sum())}


def scores(label: Labeller, tokens: Tokens, device: torch.device) -> Tensor:
    """The scores of classes (K, h, w) of an image's patches."""
    h, w, _ = tokens.patches.shape
    return label(tokens.patches.flatten(0, 1).to(device).float()).T.unflatten(1, (h, w))
