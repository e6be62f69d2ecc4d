"""k-NN against a plain double loop in float64, and against scikit-learn."""

import logging
import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals import knn as module
from dinolab.evals.knn import draw_shots, knn, monitor, predict, vote_for_each
from dinolab.features.extract import FeatureSet


def clusters(seed, n, m, classes=5, dim=8, noise=1.5):
    """Overlapping clusters of features of very different length."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=g)
    labels = torch.randint(classes, (n + m,), generator=g)
    features = centres[labels] + noise * torch.randn(n + m, dim, generator=g)
    features *= torch.rand(n + m, 1, generator=g) * 10 + 0.1
    return features[:n], labels[:n], features[n:], labels[n:]


def reference(train, train_labels, test, k, temperature):
    """The weighted vote of the k nearest neighbours, written as in the paper."""
    train, test = train.double().tolist(), test.double().tolist()
    predicted = []
    for x in test:
        similar = []
        for y, label in zip(train, train_labels.tolist()):
            dot = sum(a * b for a, b in zip(x, y))
            similar.append((dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y)), label))
        weights = {}
        for similarity, label in sorted(similar, reverse=True)[:k]:
            weights[label] = weights.get(label, 0.0) + math.exp(similarity / temperature)
        predicted.append(max(weights, key=weights.__getitem__))
    return predicted


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 0.5), (300, 0.07)])
def test_against_a_double_loop(k, temperature):
    for seed in range(2):
        train, train_labels, test, test_labels = clusters(seed, 90, 60)
        expected = reference(train, train_labels, test, k, temperature)
        assert predict(train, train_labels, test, k, temperature).tolist() == expected
        right = sum(p == t for p, t in zip(expected, test_labels.tolist()))
        accuracy = knn(train, train_labels, test, test_labels, k, temperature)
        assert accuracy == pytest.approx(right / 60)
        assert 0.2 < accuracy < 0.99  # the case is neither trivial nor hopeless


def test_the_weights_matter():
    """One near neighbour outvotes three distant ones at 0.07, and not with flat weights."""
    angles = torch.tensor([0.05, 1.2, 1.25, 1.3])
    train = torch.stack([angles.cos(), angles.sin()], 1)
    labels, test = torch.tensor([0, 1, 1, 1]), torch.tensor([[1.0, 0.0]])
    assert predict(train, labels, test, k=4).tolist() == [0]
    assert predict(train, labels, test, k=4, temperature=100).tolist() == [1]


@pytest.mark.parametrize("k", [3, 20])
def test_against_scikit_learn(k):
    train, train_labels, test, test_labels = clusters(7, 400, 300, noise=2)
    judge = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    judge.fit(train.double().numpy(), train_labels.numpy())
    assert predict(train, train_labels, test, k).tolist() == judge.predict(test.double().numpy()).tolist()
    score = judge.score(test.double().numpy(), test_labels.numpy())
    assert knn(train, train_labels, test, test_labels, k) == pytest.approx(score)


def test_shares_of_the_vote_for_several_k_against_scikit_learn():
    train, train_labels, test, _ = clusters(4, 200, 100, noise=2)
    found = vote_for_each(train, train_labels, test, 6, {1, 10, 50}, "cpu")  # a sixth class that nobody has
    for k, shares in found.items():
        judge = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
        expected = judge.fit(train.double().numpy(), train_labels.numpy()).predict_proba(test.double().numpy())
        np.testing.assert_allclose(shares[:, :5].numpy(), expected, atol=2e-5)
        assert shares[:, 5].abs().max() == 0


def test_chunks_change_nothing():
    train, train_labels, test, _ = clusters(3, 210, 101)
    whole = predict(train, train_labels, test, 20)
    for chunk, train_chunk in [(1, 7), (13, 64), (100, 10), (101, 210)]:
        assert torch.equal(predict(train, train_labels, test, 20, test_chunk=chunk, train_chunk=train_chunk), whole)


def test_a_cold_temperature_does_not_overflow_and_nan_is_never_right():
    train, train_labels, test, test_labels = clusters(1, 50, 20)
    cold = predict(train, train_labels, test, 20, temperature=1e-4)
    assert torch.equal(cold, predict(train, train_labels, test, 1))
    assert knn(train * float("nan"), train_labels, test, test_labels) == 0
    test[3] = float("inf")
    assert predict(train, train_labels, test).tolist().count(-1) == 1


@pytest.fixture
def planted(monkeypatch):
    """Features by the source's name instead of images: class 'ant' lies along x, 'bee' along y, 'cow' along z."""
    axis = {"ant": 0, "bee": 1, "cow": 2}

    def features_of(encoder, source, size, **kw):
        rows = torch.stack([torch.eye(3)[axis[source.classes[i]]] for i in source.labels])
        kept, none = torch.arange(len(rows)), torch.empty(len(rows), 0)
        return FeatureSet([rows], none, torch.as_tensor(source.labels), kept, none)

    monkeypatch.setattr(module, "extract", features_of)


def source(name, labels, classes):
    return Source(
        name, [f"{i}.png" for i in range(len(labels or "ab"))], None if labels is None else np.array(labels), classes
    )


def test_classes_are_matched_by_name(planted):
    train = source("train", [0, 0, 1, 1, 2], ["ant", "bee", "cow"])
    test = source("test", [0, 1, 1], ["cow", "ant"])
    assert monitor(None, train, test, 8, k=2) == {"knn": 1.0, "knn_train_images": 5, "knn_test_images": 3}


def test_a_class_that_train_lacks_counts_as_wrong(planted, caplog):
    train, test = source("train", [0, 1], ["bee", "ant"]), source("test", [0, 1, 2, 2], ["ant", "bee", "cow"])
    with caplog.at_level(logging.WARNING):
        assert monitor(None, train, test, 8, k=1)["knn"] == 0.5
    assert "cow" in caplog.text


def test_labels_that_cannot_be_compared_are_refused(planted):
    train, plain = source("left", [0, 1], ["ant", "bee"]), source("right", None, [])
    with pytest.raises(UserError, match="right: k-NN needs labels"):
        monitor(None, train, plain, 8)
    with pytest.raises(UserError, match="left: k-NN needs labels"):
        monitor(None, source("left", None, []), train, 8)
    with pytest.raises(UserError, match="left and right have no class in common"):
        monitor(None, train, source("right", [0], ["cow"]), 8)


def test_on_images(har):
    """Real images: each is its own nearest neighbour in raw pixels."""
    from dinolab.features.pixels import PixelEncoder

    paths = sorted(str(path) for path in (har / "train").iterdir())[:12]
    some = Source("some", paths, np.arange(12), [str(i) for i in range(12)])
    assert monitor(PixelEncoder(), some, some, 64, k=1, progress=False)["knn"] == 1


def test_few_shots():
    """Draws have the asked number of each class or all there are, differ, and grow with the number."""
    labels = torch.tensor([0] * 6 + [1] * 6 + [2] * 2)
    drawn = [draw_shots(labels, 3, 0, number) for number in range(4)]
    for rows in drawn:
        assert labels[rows].bincount().tolist() == [3, 3, 2]
        assert rows.unique().equal(rows)
    assert len({tuple(rows.tolist()) for rows in drawn}) > 1
    assert set(drawn[0].tolist()) < set(draw_shots(labels, 5, 0, 0).tolist())
    assert draw_shots(labels, 100, 0, 0).equal(torch.arange(14))
    assert not draw_shots(labels, 3, 1, 0).equal(drawn[0])
