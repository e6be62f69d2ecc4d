"""Logistic regression on frozen features: how well a line parts the classes when it is fitted to the end.

On a CPU by scikit-learn; elsewhere the same objective, with the same L-BFGS, by PyTorch.

Features are standardised by the training part's mean and deviation. The strength of the L2 penalty, 1 / C, is chosen by
stratified cross-validation on the training features (1 where all classes but one have a single image); the regression is
then fitted once more to all of them.
"""

import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.logreg_torch import TorchLogisticRegression
from dinolab.features.extract import COLUMNS, extract, refuse_infinite

log = logging.getLogger(__name__)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C
USUAL = 1.0  # of them, where too few images have a neighbour of their class to choose by
FOLDS = 5
STEPS = 1000  # of L-BFGS, at most
SOLVERS = ("auto", "scikit-learn", "torch")


def logreg(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    classes: int,
    seed: int = 0,
    progress: bool = True,
    device: str | torch.device = "cpu",
    solver: str = "auto",
) -> tuple[Tensor, dict[str, Any]]:
    """Probabilities float32 (M, classes) for features (M, D), and what was chosen, from features (N, D) and labels (N,).

    `solver` is "scikit-learn", which computes on the CPU, "torch", on `device`, or "auto": the former where that is a CPU.
    Raises UserError where features are not finite or the labels are of one class.
    """
    if solver not in SOLVERS:
        raise UserError(f"solver {solver!r} is not one of {', '.join(SOLVERS)}")
    if solver == "auto":
        solver = "scikit-learn" if torch.device(device).type == "cpu" else "torch"
    refuse_infinite(train, test)
    x, y = train.numpy(), labels.numpy()
    sizes = np.bincount(y)
    if np.count_nonzero(sizes) < 2:
        raise UserError("logistic regression needs training images of two classes or more; the source has one")
    folds = int(np.clip(sizes[sizes > 0].min(), 2, FOLDS))
    crossed = np.count_nonzero(sizes > 1) > 1  # else some fold leaves one class to learn from, or none to ask
    kind = LogisticRegression if solver == "scikit-learn" else partial(TorchLogisticRegression, device=device)
    new_model = partial(kind, max_iter=STEPS)
    by_strength = cross_validate(new_model, x, y, folds, seed, progress) if crossed else []
    best = STRENGTHS[int(np.argmax(by_strength))] if crossed else USUAL

    scaler, model = StandardScaler(), new_model(C=best)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model.fit(scaler.fit_transform(x), y)
    if model.n_iter_.max() >= STEPS:
        log.warning("logistic regression (C = %g) has not converged after %d steps", best, STEPS)
    probabilities = torch.zeros(len(test), classes)
    probabilities[:, torch.from_numpy(model.classes_)] = torch.from_numpy(
        model.predict_proba(scaler.transform(test.numpy()))
    ).float()
    chosen = {
        "solver": solver,
        "C": best,
        "folds": folds if crossed else 0,
        "cross_validation": dict(zip(map(str, STRENGTHS), by_strength)),
    }
    return probabilities, chosen


def classifier(
    encoder: Any, source: Source, size: int | tuple[int, int], progress: bool, device: torch.device, **how: Any
) -> Callable[[Tensor], Tensor]:
    """Class tokens (n, D) -> probabilities (n, C) of the source's classes, by logistic regression on its images.

    Their features are extracted at once; `how` goes to `extract`.
    """
    found = extract(encoder, source, size, progress=progress, device=device, **how)
    classes = len(source.classes)
    return lambda cls: logreg(found.matrix(), found.labels, cls, classes, progress=progress, device=device)[0]


def cross_validate(
    new_model: Callable[..., Any], x: np.ndarray, y: np.ndarray, folds: int, seed: int, progress: bool
) -> list[float]:
    """Mean accuracy on the folds left out, for each of STRENGTHS."""
    accuracy = np.zeros((folds, len(STRENGTHS)))
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with (
        Progress(*COLUMNS, console=Console(stderr=True), disable=not progress) as bar,
        warnings.catch_warnings(action="ignore"),  # not converged; a class with fewer images than folds
    ):
        task = bar.add_task("logistic regression, cross-validation", total=accuracy.size)
        for fold, (fit, ask) in enumerate(parts.split(x, y)):
            scaler = StandardScaler().fit(x[fit])
            fit_x, ask_x = scaler.transform(x[fit]), scaler.transform(x[ask])
            model = new_model(warm_start=True)  # from the next smaller C, which is near
            for i, strength in enumerate(STRENGTHS):
                model.set_params(C=strength).fit(fit_x, y[fit])
                accuracy[fold, i] = model.score(ask_x, y[ask])
                bar.advance(task)
    return accuracy.mean(0).tolist()
