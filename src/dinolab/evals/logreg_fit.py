"""The fit of a logistic regression, with its penalty chosen by cross-validation.

PyTorch fits on any device. scikit-learn, with the same objective, is there for comparison: it takes up to a hundred times as long.

Features are standardised by the mean and standard deviation of the training part. The strength of the L2 penalty, 1 / C, is chosen by
stratified cross-validation on the training features (it is 1 where all classes but one have a single image); the regression is
then fitted once more to all of them.

N training images, D features, C classes.
"""

import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.evals.logreg import SOLVERS
from dinolab.evals.logreg_torch import TorchLogisticRegression
from dinolab.progress import progress_bar

log = logging.getLogger(__name__)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C
USUAL = 1.0  # the one that is taken where too few classes have two images to choose by
FOLDS = 5
STEPS = 1000  # of L-BFGS, at most


def logreg(
    train: Tensor,
    labels: Tensor,
    classes: int,
    seed: int = 0,
    progress: bool = True,
    device: str | torch.device = "cpu",
    solver: str = "torch",
) -> tuple[nn.Linear, dict[str, Any]]:
    """Fit to training features.

    Args:
        train: float32 (N, D).
        labels: int64 (N,).
        seed: of the folds.
        solver: "torch", which computes on `device`, or "scikit-learn", on the CPU.

    Returns:
        The regression as a linear layer on `device`, which takes features as they are and gives the logits of all classes; and what
        was chosen: solver, C, folds, cross_validation.

    Raises:
        UserError: all labels are of one class.
    """
    if solver not in SOLVERS:
        raise UserError(f"solver={solver}: one of {', '.join(SOLVERS)}")
    x, y = train.numpy(), labels.numpy()
    sizes = np.bincount(y)
    if np.count_nonzero(sizes) < 2:
        raise UserError("logistic regression needs training images of two classes or more; the source has one")
    folds = int(np.clip(sizes[sizes > 0].min(), 2, FOLDS))
    crossed = np.count_nonzero(sizes > 1) > 1  # else some fold has a single class to fit, or none to score
    kind = LogisticRegression if solver == "scikit-learn" else partial(TorchLogisticRegression, device=device)
    new_model = partial(kind, max_iter=STEPS)
    by_strength = cross_validate(new_model, x, y, folds, seed, progress) if crossed else []
    best = STRENGTHS[int(np.argmax(by_strength))] if crossed else USUAL

    scaler, model = StandardScaler(), new_model(C=best)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model.fit(scaler.fit_transform(x), y)
    if model.n_iter_.max() >= STEPS:
        log.warning("logistic regression (C = %g) has not converged after %d steps", best, STEPS)
    chosen = {
        "solver": solver,
        "C": best,
        "folds": folds if crossed else 0,
        "cross_validation": dict(zip(map(str, STRENGTHS), by_strength)),
    }
    return as_layer(scaler, model, classes).to(device), chosen


@torch.inference_mode(False)  # the caller may be in inference mode, as the video is
def as_layer(scaler: StandardScaler, model: Any, classes: int) -> nn.Linear:
    """Standardisation and regression as one layer. The logits of classes without training images are minus infinity."""
    fitted, offset = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(fitted) == 1:  # of two classes: the logits of the first are zero
        fitted, offset = np.concatenate([0 * fitted, fitted]), np.append(0, offset)
    fitted = fitted / scaler.scale_
    weight, bias = np.zeros((classes, fitted.shape[1])), np.full(classes, -np.inf)
    weight[model.classes_], bias[model.classes_] = fitted, offset - fitted @ scaler.mean_
    layer = nn.Linear(*reversed(weight.shape)).requires_grad_(False)
    layer.weight.copy_(torch.from_numpy(weight))
    layer.bias.copy_(torch.from_numpy(bias))
    return layer


def cross_validate(
    new_model: Callable[..., Any], x: np.ndarray, y: np.ndarray, folds: int, seed: int, progress: bool
) -> list[float]:
    """Mean accuracy on the folds that are left out, for each of STRENGTHS."""
    accuracy = np.zeros((folds, len(STRENGTHS)))
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with (
        progress_bar("logistic regression, cross-validation", accuracy.size, progress) as advance,
        warnings.catch_warnings(action="ignore"),  # not converged; a class with fewer images than folds
    ):
        for fold, (fit, left_out) in enumerate(parts.split(x, y)):
            scaler = StandardScaler().fit(x[fit])
            fit_x, left_out_x = scaler.transform(x[fit]), scaler.transform(x[left_out])
            model = new_model(warm_start=True)  # from the next smaller C, which is near
            for i, strength in enumerate(STRENGTHS):
                model.set_params(C=strength).fit(fit_x, y[fit])
                accuracy[fold, i] = model.score(left_out_x, y[left_out])
                advance(1)
    return accuracy.mean(0).tolist()
