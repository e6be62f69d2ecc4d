"""Logistic regression on frozen features: how well they separate the classes linearly, fitted to the end.

The fit itself, which needs scikit-learn, is in logreg_fit.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dinolab.data.types import Source
from dinolab.evals.classification import Classification, Classified
from dinolab.evals.contract import Context
from dinolab.evals.heads import Input, Trained
from dinolab.evals.labelled_images import LabelledImages, Sides
from dinolab.features.extract import extract
from dinolab.features.options import TOKENS
from dinolab.fields import option

SOLVERS = ("torch", "scikit-learn")


class LogisticRegression(Classification):
    title = "logistic regression"
    about = "Logistic regression on frozen features; the strength of its penalty is chosen by cross-validation."
    earlier = "logistic regression"
    compared = True

    @dataclass
    class Options(LabelledImages.Options):
        tokens: str = option("cls", "features: class token, mean of the patches, or both", choices=TOKENS)
        blocks: int = option(1, "number of last blocks whose class tokens are used", 1, 1000)
        solver: str = option("torch", "what fits it: the same objective, scikit-learn far more slowly", choices=SOLVERS)

    def classify(
        self, encoder: Any, data: LabelledImages, options: "LogisticRegression.Options", context: Context, seed: int
    ) -> tuple[Sides, Classified]:
        from dinolab.evals.logreg_fit import logreg  # here: scikit-learn takes a second to import

        sides = data.sides(encoder, seed, options.blocks, options.tokens != "cls")
        taken = Input(len(sides.train_features.blocks), options.tokens)
        train, labels = taken.rows(sides.train_features), sides.train_features.labels
        linear, chosen = logreg(
            train, labels, len(sides.train.classes), seed, context.progress, context.device, options.solver
        )
        layer = Trained(linear, taken)
        return sides, Classified(layer.probabilities(sides.test_features), taken._asdict() | chosen, layer=layer)


def classifier(
    encoder: Any, source: Source, size: int | tuple[int, int], progress: bool, device: torch.device, **how: Any
) -> Callable[[Tensor], Tensor]:
    """A function from class tokens (n, D) to probabilities (n, C) of the source's classes, by logistic regression on its images.

    It is fitted at once; `how` goes to `extract`.
    """
    from dinolab.evals.logreg_fit import logreg

    found = extract(encoder, source, size, progress=progress, device=device, **how)
    linear, _ = logreg(found.matrix(), found.labels, len(source.classes), progress=progress, device=device)
    return lambda cls: linear(cls.to(device)).softmax(1).cpu()
