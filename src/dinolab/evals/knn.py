"""Measures weighted k-nearest-neighbour accuracy: how good features are as they stand, with nothing trained on top.

The protocol of DINO (arXiv 2104.14294, section 4.1 and appendix) after Wu et al. (arXiv 1805.01978): cosine
similarity, and each of the k nearest training images votes for its class with weight exp(similarity / 0.07).
With few training images of each class, drawn several times, it is the few-shot evaluation of DINOv2's code.

N training images, M test images, D features.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dinolab.data import draws
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.classification import ACCURACY, FURTHER, Classification, Classified
from dinolab.evals.contract import SUITES, Context
from dinolab.evals.labelled_images import LabelledImages, Sides
from dinolab.evals.scores import match_classes, most_likely
from dinolab.features.extract import extract
from dinolab.features.neighbours import QUERIES, REFERENCES, nearest
from dinolab.features.options import TOKENS
from dinolab.fields import option

TEMPERATURE = 0.07
KS = (10, 20, 100, 200)  # numbers of neighbours whose accuracies are given beside the main one


class KNN(Classification):
    title = "k-NN"
    about = "Weighted k-nearest-neighbour classification on frozen features, as in DINO."
    earlier = "weighted k-NN, as DINO"
    FIGURES = (replace(ACCURACY, published="imagenet.knn_top1 small_scale.knn_top1"), *FURTHER)
    draws = False  # of the main figure; few-shot tries have draws of their own
    compared = True
    suites = SUITES

    @dataclass
    class Options(LabelledImages.Options):
        k: int = option(20, "number of nearest neighbours", 1, 1 << 30)
        temperature: float = option(TEMPERATURE, "divides the similarities; a lower one favours the nearest", 1e-6, 1e6)
        shots: list[int] = option(
            [], "few-shot k-NN: numbers of training images of each class (empty: none)", 1, 1 << 30
        )
        tries: int = option(5, "draws of these training images for each number of them", 1, 10000)
        tokens: str = option("cls", "features: class token, mean of the patches, or both", choices=TOKENS)
        blocks: int = option(1, "number of last blocks whose class tokens are used", 1, 1000)

    def classify(
        self, encoder: Any, data: LabelledImages, options: "KNN.Options", context: Context, seed: int
    ) -> tuple[Sides, Classified]:
        sides = data.sides(encoder, seed, options.blocks, options.tokens != "cls")
        train, test = (
            part.matrix(options.tokens, options.blocks) for part in (sides.train_features, sides.test_features)
        )
        classes, ks = len(sides.train.classes), {options.k, *KS}
        labels = sides.train_features.labels
        votes = vote_for_each(train, labels, test, classes, ks, context.device, options.temperature)
        settings = {"tokens": options.tokens, "blocks": len(sides.train_features.blocks)}
        settings |= {"k": options.k, "temperature": options.temperature}
        few = {}
        on_device = test.to(context.device)
        for shots in options.shots:
            drawn = (draw_shots(labels, shots, seed, number) for number in range(options.tries))
            few[f"{shots} of each class"] = [
                predict(train[rows], labels[rows], on_device, options.k, options.temperature).cpu() for rows in drawn
            ]
        settings |= {"shots": options.shots, "tries": options.tries} if few else {}
        return sides, Classified(votes[options.k], settings, {f"k = {k}": most_likely(votes[k]) for k in KS}, few)


def draw_shots(labels: Tensor, shots: int, seed: int, number: int) -> Tensor:
    """Rows of `shots` training images of each class, int64, rising; all of a class that has fewer.

    With the same seed and number, fewer shots are a part of more shots.
    """
    order = torch.from_numpy(draws.rng(seed, draws.SHOTS, number).permutation(len(labels)))
    rows = [order[labels[order] == label][:shots] for label in labels.unique()]
    return torch.cat(rows).sort().values


def vote(similarities: Tensor, labels: Tensor, classes: int, temperature: float = TEMPERATURE) -> Tensor:
    """Compute each class's share of the neighbours' weights, float32 (M, classes), from similarities and labels (M, k) of neighbours.

    A row of NaN where a similarity is not finite, as with features of a diverged model.
    """
    weight = ((similarities - similarities[:, :1]) / temperature).exp()  # shifted alike, so that none can overflow
    votes = torch.zeros(len(weight), classes, device=weight.device).scatter_add_(1, labels, weight)
    return votes / votes.sum(1, keepdim=True)


def vote_for_each(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    classes: int,
    ks: set[int],
    device: str | torch.device,
    temperature: float = TEMPERATURE,
) -> dict[int, Tensor]:
    """Compute for each k the classes' shares of the votes, float32 (M, classes) on the CPU, from one search on `device`."""
    similarities, indices = nearest(train, test.to(device), max(ks))
    of = labels.to(device)[indices]
    return {k: vote(similarities[:, :k], of[:, :k], classes, temperature).cpu() for k in ks}


def predict(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    k: int = 20,
    temperature: float = TEMPERATURE,
    test_chunk: int = QUERIES,
    train_chunk: int = REFERENCES,
) -> Tensor:
    """Predict the class that the k nearest training images vote for, int64 (M,).

    Where a vote is not finite, as with features of a diverged model, the class is -1. Computes on the device of `test`.

    Args:
        train: features (N, D); they may lie on another device, see `nearest`.
        labels: int64 (N,), 0 or more.
        test: features (M, D).
    """
    similarities, indices = nearest(train, test, k, test_chunk, train_chunk)
    classes = int(labels.max()) + 1
    of = labels.to(indices.device)[indices]
    parts = zip(similarities.split(test_chunk), of.split(test_chunk))
    return torch.cat([most_likely(vote(some, voted, classes, temperature)) for some, voted in parts])


def knn(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    k: int = 20,
    temperature: float = TEMPERATURE,
) -> float:
    """Compute the share of test images, from 0 to 1, for which `predict` gives their class; see there."""
    predicted = predict(train, train_labels, test, k, temperature)
    return (predicted == test_labels.to(predicted.device)).sum().item() / len(test_labels)


def monitor(
    encoder: Any,
    train: Source,
    test: Source,
    size: int,
    k: int = 20,
    device: str | torch.device = "cpu",
    workers: int = 0,
    progress: bool = False,
    precision: str = "fp32",
) -> dict[str, float]:
    """Measure the k-NN accuracy of the encoder's class tokens while it is trained. With several processes, all must call it together.

    Classes are matched by name. Test images of a class that `train` lacks count as wrong, and a warning says so.

    Returns:
        knn: the accuracy, from 0 to 1; knn_train_images, knn_test_images: how many images could be read.

    Raises:
        UserError: either source has no labels, or they share no class.
    """
    for source in (train, test):
        if source.labels is None:
            raise UserError(f"{source.name}: k-NN needs labels, and it has none; name a labelled source for it")
    number = match_classes(train, test)
    reference, query = (
        extract(encoder, source, size, device=device, workers=workers, progress=progress, precision=precision)
        for source in (train, test)
    )
    accuracy = knn(reference.matrix(), reference.labels, query.matrix().to(device), number[query.labels], k)
    return {"knn": accuracy, "knn_train_images": len(reference), "knn_test_images": len(query)}
