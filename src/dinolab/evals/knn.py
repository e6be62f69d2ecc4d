"""Weighted k-nearest-neighbour accuracy: how good features are as they stand, with nothing trained on top.

The protocol of DINO (arXiv 2104.14294, section 4.1 and appendix) after Wu et al. (arXiv 1805.01978): cosine
similarity, and each of the k nearest training images votes for its class with weight exp(similarity / 0.07).
"""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.features.extract import extract

log = logging.getLogger(__name__)
TEMPERATURE = 0.07


def neighbours(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    k: int = 20,
    chunk: int = 1024,
    train_chunk: int = 16384,
) -> tuple[Tensor, Tensor]:
    """Cosine similarities (M, k) and labels (M, k) of the k nearest training images, best first; k is clipped to N.

    From features (N, D) and (M, D) and labels (N,) >= 0. Works on the device of `test_features`; training features come
    there `train_chunk` rows at a time, so they may lie in another memory, and no more than chunk x train_chunk similarities
    exist at once.
    """
    device = test_features.device
    test = F.normalize(test_features.float(), dim=1)
    nearest = torch.empty(len(test), 0, device=device)  # similarities of the best k so far
    classes = torch.empty(len(test), 0, dtype=torch.int64, device=device)
    for block, labels in zip(train_features.split(train_chunk), train_labels.split(train_chunk), strict=True):
        block = F.normalize(block.to(device).float(), dim=1)
        labels = labels.to(device)
        found = []
        for rows, near, of in zip(test.split(chunk), nearest.split(chunk), classes.split(chunk), strict=True):
            similarity, index = (rows @ block.T).topk(min(k, len(block)))
            near, of = torch.cat([near, similarity], 1), torch.cat([of, labels[index]], 1)
            near, best = near.topk(min(k, near.shape[1]))
            found.append((near, of.gather(1, best)))
        nearest, classes = (torch.cat(parts) for parts in zip(*found, strict=True))
    return nearest, classes


def vote(similarities: Tensor, labels: Tensor, classes: int, temperature: float = TEMPERATURE) -> Tensor:
    """Each class's share of the neighbours' weights, float32 (M, classes), from what `neighbours` gives.

    A row of NaN where a similarity is not finite, as with features of a diverged model.
    """
    weight = ((similarities - similarities[:, :1]) / temperature).exp()  # shifted alike, so that none can overflow
    votes = torch.zeros(len(weight), classes, device=weight.device).scatter_add_(1, labels, weight)
    return votes / votes.sum(1, keepdim=True)


def vote_for_each(
    train: Tensor, labels: Tensor, test: Tensor, classes: int, ks: set[int], device: str | torch.device
) -> dict[int, Tensor]:
    """For each k the classes' shares of the votes, float32 (M, classes) on the CPU, from one search on `device`."""
    near, of = neighbours(train, labels, test.to(device), max(ks))
    return {k: vote(near[:, :k], of[:, :k], classes).cpu() for k in ks}


def most_likely(probabilities: Tensor) -> Tensor:
    """The class, int64 (M,), of the largest of each row of (M, classes); -1 where not all are finite."""
    return probabilities.argmax(1).where(probabilities.isfinite().all(1), -1)


def predict(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    k: int = 20,
    temperature: float = TEMPERATURE,
    chunk: int = 1024,
    train_chunk: int = 16384,
) -> Tensor:
    """Class voted for each test image: int64 (M,). See `neighbours` for the arguments.

    Where a vote is not finite, as with features of a diverged model, the class is -1.
    """
    near, labels = neighbours(train_features, train_labels, test_features, k, chunk, train_chunk)
    classes = int(train_labels.max()) + 1
    parts = zip(near.split(chunk), labels.split(chunk))
    return torch.cat([most_likely(vote(some, of, classes, temperature)) for some, of in parts])


def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int = 20,
    temperature: float = TEMPERATURE,
) -> float:
    """Share of test images, 0..1, for which the weighted vote of the k nearest training images names their class.

    Features (N, D) and (M, D), labels int64 (N,) and (M,). See `predict` for devices and memory.
    """
    predicted = predict(train_features, train_labels, test_features, k, temperature)
    return (predicted == test_labels.to(predicted.device)).sum().item() / len(test_labels)


def evaluate(
    encoder: Any,
    train: Source,
    test: Source,
    size: int,
    k: int = 20,
    device: str | torch.device = "cpu",
    workers: int = 0,
    progress: bool = True,
) -> dict[str, float]:
    """k-NN accuracy of the encoder's class tokens on `test`, with the images of `train` as neighbours.

    Classes are matched by name. Test images of a class that `train` lacks count as wrong, and a warning says so.
    Raises UserError if either source has no labels or they share no class.
    """
    for source in (train, test):
        if source.labels is None:
            raise UserError(f"{source.name}: k-NN needs labels, and it has none; name a labelled source for it")
    number = match_classes(train, test)
    options: dict[str, Any] = {"device": device, "workers": workers, "progress": progress}
    votes, asked = extract(encoder, train, size, **options), extract(encoder, test, size, **options)
    accuracy = knn(votes.matrix(), votes.labels, asked.matrix().to(device), number[asked.labels], k)
    return {"knn": accuracy, "knn_train_images": len(votes), "knn_test_images": len(asked)}


def match_classes(train: Source, test: Source) -> Tensor:
    """For each class of `test` its number in `train.classes`, by name; classes that `train` lacks are numbered after them.

    A warning names those. Raises UserError if no class is shared.
    """
    missing = [name for name in test.classes if name not in set(train.classes)]
    if len(missing) == len(test.classes):
        raise UserError(
            f"{train.name} and {test.name} have no class in common ({', '.join(train.classes[:3])}, ... against "
            f"{', '.join(test.classes[:3])}, ...); name two sources that share classes"
        )
    if missing:
        log.warning("%s: no such class in %s, so counted as wrong: %s", test.name, train.name, ", ".join(missing))
    number = {name: i for i, name in enumerate([*train.classes, *missing])}
    return torch.tensor([number[name] for name in test.classes])
