"""scikit-learn's multinomial logistic regression on any device PyTorch has.

N images, D features, K classes, R axes.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor

from dinolab.precision import quick_products

STEPS_AT_ONCE = 10  # of L-BFGS, between two looks at the gradient
SMALL = 1e-6  # share of the largest mean square below which float32 sees nothing


class TorchLogisticRegression(ClassifierMixin, BaseEstimator):
    """LogisticRegression(C, tol, max_iter, warm_start) of scikit-learn, with an L2 penalty, by torch.optim.LBFGS on `device`.

    The objective is scikit-learn's: mean cross-entropy + |W|^2 / (2 C N), the intercept b without penalty; with two classes
    the logistic loss of a single row of W. Features are expected to be standardised.

    L-BFGS works in the coordinates in which the objective is nearly round: features are turned to their principal axes, and each
    axis is divided by the root of the curvature that it has where all classes are equally likely, p (1 - p) lambda + 1 / (C N).
    Images have features that are strongly correlated, and then this takes tens of steps in place of thousands. It stops when no entry
    of the gradient along the principal axes is above `tol`, or when the loss falls no further in float32.
    """

    def __init__(
        self,
        C: float = 1.0,
        tol: float = 1e-4,
        max_iter: int = 100,
        warm_start: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        self.C, self.tol, self.max_iter, self.warm_start, self.device = C, tol, max_iter, warm_start, device

    @torch.inference_mode(False)  # the caller may be in inference mode, as the video is
    @quick_products()
    def fit(self, x: np.ndarray, y: np.ndarray) -> "TorchLogisticRegression":
        """Fit to features float32 (N, D) and labels (N,) of two classes or more. A warm start is for the same array."""
        self.classes_, numbers = np.unique(y, return_inverse=True)
        target = torch.as_tensor(numbers, device=self.device)
        rows = len(self.classes_) if len(self.classes_) > 2 else 1
        if not (self.warm_start and getattr(self, "of_", None) is x):
            self.of_, features = x, torch.as_tensor(x, device=self.device)
            self.variances_, self.axes_ = principal_axes(features)
            self.turned_ = features @ self.axes_  # (N, R)
            self.weight_ = features.new_zeros(rows, self.axes_.shape[1])
            self.bias_ = features.new_zeros(rows)
        penalty, curvature = 1 / (self.C * len(x)), (1 - 1 / len(self.classes_)) / len(self.classes_)
        scale = (curvature * self.variances_ + penalty).rsqrt()
        weight, bias = (self.weight_ / scale).requires_grad_(), self.bias_.requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=STEPS_AT_ONCE,
            history_size=20,
            tolerance_grad=0,
            tolerance_change=0,  # in float32 these tests would end it at other points than the gradient's
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            turned = weight * scale
            loss = F.cross_entropy(logits(self.turned_, turned, bias), target) + turned.square().sum() * penalty / 2
            loss.backward()
            return loss

        before = torch.inf
        while optimizer.state[weight].get("n_iter", 0) < self.max_iter:
            optimizer.step(objective)
            loss = objective().item()
            assert weight.grad is not None and bias.grad is not None
            if max((weight.grad / scale).abs().max(), bias.grad.abs().max()) <= self.tol or loss >= before:
                break
            before = loss
        self.n_iter_ = np.array([optimizer.state[weight]["n_iter"]])
        self.weight_, self.bias_ = (weight * scale).detach(), bias.detach()
        return self

    @property
    def coef_(self) -> np.ndarray:
        """(K, D), or (1, D) with two classes."""
        return (self.weight_ @ self.axes_.T).cpu().numpy()

    @property
    def intercept_(self) -> np.ndarray:
        return self.bias_.cpu().numpy()

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """float32 (M, K)."""
        features = torch.as_tensor(x, device=self.device)
        return logits(features, self.weight_ @ self.axes_.T, self.bias_).softmax(1).cpu().numpy()

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(x).argmax(1)]


def logits(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, K); with two classes, the logits of the first are zero."""
    found = F.linear(features, weight, bias)
    return found if found.shape[1] > 1 else F.pad(found, (1, 0))


def principal_axes(features: Tensor) -> tuple[Tensor, Tensor]:
    """The principal axes of features (N, D), not centred: the mean square along each, (R,), and the axes, orthonormal, (D, R).

    Axes along which there is nothing are left out where there are fewer images than features; the weight along them is zero.
    """
    images, width = features.shape
    if images >= width:
        squares, axes = eigh(features.T @ features / images)
        return squares.clamp_min(0), axes
    squares, rows = eigh(features @ features.T / images)
    some = squares > SMALL * squares[-1]
    return squares[some], features.T @ rows[:, some] / (images * squares[some]).sqrt()


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, rising, and eigenvectors of a symmetric matrix (n, n), on its device; PyTorch has no such function for MPS."""
    values, vectors = torch.linalg.eigh(matrix.cpu() if matrix.device.type == "mps" else matrix)
    return values.to(matrix.device), vectors.to(matrix.device)
