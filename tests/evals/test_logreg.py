"""Logistic regression against scikit-learn's own grid search on the same features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dinolab.errors import UserError
from dinolab.evals.logreg_fit import STRENGTHS, logreg
from dinolab.evals.logreg_torch import TorchLogisticRegression
from tests.evals.planted import cluster


@pytest.mark.parametrize("solver", ["scikit-learn", "torch"])
@pytest.mark.parametrize("noise", [1.0, 4.0])
def test_against_scikit_learn_s_grid_search(noise, solver):
    train, labels = cluster(0, 120, noise=noise)
    test, _ = cluster(1, 60, noise=noise)
    scale = torch.tensor([1.0, 100.0, 0.01, 1.0, 1.0, 1.0])  # which standardising has to take out
    train, test = train * scale + 5, test * scale + 5
    layer, chosen = logreg(train, labels, 3, seed=3, progress=False, solver=solver)

    judge = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": list(STRENGTHS)},
        cv=StratifiedKFold(5, shuffle=True, random_state=3),
    ).fit(train.numpy(), labels.numpy())
    assert chosen["solver"] == solver
    assert chosen["C"] == judge.best_params_["logisticregression__C"]
    own = [chosen["cross_validation"][str(c)] for c in STRENGTHS]
    np.testing.assert_allclose(own, judge.cv_results_["mean_test_score"], atol=0.01)
    np.testing.assert_allclose(layer(test).softmax(1).numpy(), judge.predict_proba(test.numpy()), atol=2e-3)


def test_the_penalty_depends_on_the_data():
    """Many noisy dimensions want a stronger one than few clean ones."""
    clean = logreg(*cluster(0, 90), 3, progress=False)[1]["C"]
    train, labels = cluster(0, 60, dim=6, noise=3.0)
    noisy = torch.cat([train, torch.randn(60, 200, generator=torch.Generator().manual_seed(2))], 1)
    assert logreg(noisy, labels, 3, progress=False)[1]["C"] < clean


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("strength", [1e-4, 1.0, 100.0])
def test_coefficients_on_the_device_are_scikit_learn_s(classes, strength):
    train, labels = (part.numpy() for part in cluster(0, 200, classes, noise=3.0))
    labels = labels * 10 + 5  # classes need not be 0, 1, ...
    own, theirs = (
        kind(C=strength, tol=1e-6, max_iter=1000).fit(train, labels)
        for kind in (TorchLogisticRegression, LogisticRegression)
    )
    assert own.classes_.tolist() == theirs.classes_.tolist()
    scale = np.abs(theirs.coef_).max()
    np.testing.assert_allclose(own.coef_, theirs.coef_, atol=2e-3 * scale)
    np.testing.assert_allclose(own.intercept_, theirs.intercept_, atol=2e-3)
    np.testing.assert_allclose(own.predict_proba(train), theirs.predict_proba(train), atol=1e-3)
    assert (own.predict(train) == theirs.predict(train)).mean() > 0.99
    assert own.n_iter_[0] < 1000


def test_a_warm_start_goes_on_where_the_last_fit_ended():
    train, labels = (part.numpy() for part in cluster(0, 200, noise=3.0))
    model = TorchLogisticRegression(C=0.1, warm_start=True).fit(train, labels)
    cold = model.n_iter_[0]
    assert model.fit(train, labels).n_iter_[0] < cold


def test_it_learns_for_a_caller_that_is_inferring():  # as the video is
    with torch.inference_mode():
        train, labels = cluster(0, 60)
        layer, _ = logreg(train, labels, 3, progress=False, solver="torch")
    assert (layer(train).argmax(1) == labels).float().mean() > 0.9


def test_an_unknown_solver_is_refused():
    with pytest.raises(UserError, match="solver=newton: one of torch"):
        logreg(*cluster(0, 30), 3, progress=False, solver="newton")


def test_classes_without_training_images_get_nothing():
    train, labels = cluster(0, 60)
    probabilities = logreg(train, labels * 2, 6, progress=False)[0](train[:5]).softmax(1)
    assert probabilities.shape == (5, 6)
    assert probabilities[:, [1, 3, 5]].abs().max() == 0
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))


def test_a_class_with_one_image_is_learned():
    train, labels = cluster(0, 30)
    labels[0] = 3
    train[0] = 50
    layer, chosen = logreg(train, labels, 4, progress=False)
    assert chosen["folds"] == 2
    assert layer(train[:1]).argmax().item() == 3


@pytest.mark.parametrize("of_each", [[1, 1, 1], [5, 1], [1, 2]])
def test_too_few_images_to_choose_by(of_each):
    labels = torch.repeat_interleave(torch.arange(len(of_each)), torch.tensor(of_each))
    train = 10.0 * torch.eye(6)[labels]
    layer, chosen = logreg(train, labels, len(of_each), progress=False)
    assert chosen["folds"] == 0 and chosen["C"] == 1 and chosen["cross_validation"] == {}
    assert layer(train).argmax(1).equal(labels)


def test_what_cannot_be_fitted_is_refused():
    train, labels = cluster(0, 30)
    with pytest.raises(UserError, match="two classes"):
        logreg(train, labels * 0, 3, progress=False)
