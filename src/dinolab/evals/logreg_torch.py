"""scikit-learn's multinomial logistic regression on any device PyTorch has.

N images, D features, K classes.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor


class TorchLogisticRegression(ClassifierMixin, BaseEstimator):
    """LogisticRegression(C, tol, max_iter, warm_start) of scikit-learn, with an L2 penalty, by torch.optim.LBFGS on `device`.

    The objective is scikit-learn's: mean cross-entropy + |W|^2 / (2 C N), the intercept b without penalty; with two classes
    the logistic loss of a single row of W. It stops as scikit-learn does, when no entry of the gradient is above `tol`.
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
    def fit(self, x: np.ndarray, y: np.ndarray) -> "TorchLogisticRegression":
        """Fit to features float32 (N, D) and labels (N,) of two classes or more."""
        self.classes_, numbers = np.unique(y, return_inverse=True)
        features = torch.as_tensor(x, device=self.device)
        target = torch.as_tensor(numbers, device=self.device)
        rows = len(self.classes_) if len(self.classes_) > 2 else 1
        if not (self.warm_start and hasattr(self, "weight_")):
            self.weight_ = features.new_zeros(rows, features.shape[1])
            self.bias_ = features.new_zeros(rows)
        parameters = [self.weight_.requires_grad_(), self.bias_.requires_grad_()]
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=self.max_iter,
            tolerance_grad=self.tol,
            tolerance_change=0,  # in float32 this test would end it before the gradient does
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(self._logits(features), target)
            loss = loss + self.weight_.square().sum() / (2 * self.C * len(features))
            loss.backward()
            return loss

        optimizer.step(objective)
        self.n_iter_ = np.array([optimizer.state[parameters[0]]["n_iter"]])
        self.weight_, self.bias_ = self.weight_.detach(), self.bias_.detach()
        return self

    @property
    def coef_(self) -> np.ndarray:
        """(K, D), or (1, D) with two classes."""
        return self.weight_.cpu().numpy()

    @property
    def intercept_(self) -> np.ndarray:
        return self.bias_.cpu().numpy()

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """float32 (M, K)."""
        return self._logits(torch.as_tensor(x, device=self.device)).softmax(1).cpu().numpy()

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(x).argmax(1)]

    def _logits(self, features: Tensor) -> Tensor:
        """(N, K); with two classes, the logits of the first are zero."""
        logits = F.linear(features, self.weight_, self.bias_)
        return logits if logits.shape[1] > 1 else F.pad(logits, (1, 0))
