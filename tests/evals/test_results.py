"""Figures and files of an evaluation."""

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from dinolab.data.types import Source
from dinolab.evals.confusion import draw_confusion
from dinolab.evals.scores import (
    accuracy_by_class,
    among_the_first,
    bootstrap_interval,
    count_confusions,
    find_leaks,
    over_seeds,
    warn_of_leaks,
)
from tests.evals.planted import feature_set


@pytest.mark.parametrize(("right", "images"), [(30, 40), (3, 25), (700, 1500)])
def test_the_interval_against_a_plain_bootstrap(right, images):
    answers = np.arange(images) < right
    rng = np.random.default_rng(0)
    accuracies = [answers[rng.integers(0, images, images)].mean() for _ in range(4000)]
    expected = np.percentile(accuracies, [2.5, 97.5])
    np.testing.assert_allclose(bootstrap_interval(right, images), expected, atol=1.01 / images + 2e-3)


def test_the_interval_at_the_ends():
    assert bootstrap_interval(0, 10) == (0, 0)
    assert bootstrap_interval(10, 10) == (1, 1)


def test_scores_by_hand():
    predicted, truth = np.array([0, 1, 1, -1, 2]), np.array([0, 0, 1, 1, 3])
    assert accuracy_by_class(predicted, truth, ["ant", "bee", "cow", "dog"]) == {
        "ant": {"accuracy": 0.5, "images": 2},
        "bee": {"accuracy": 0.5, "images": 2},
        "dog": {"accuracy": 0.0, "images": 1},
    }
    expected = [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert count_confusions(predicted, truth, 4).tolist() == expected


def test_top_5_against_scikit_learn():
    rng = np.random.default_rng(0)
    probabilities, truth = rng.dirichlet(np.ones(9), 300), rng.integers(0, 9, 300)
    found = among_the_first(torch.from_numpy(probabilities), truth, 5)
    assert found.mean() == pytest.approx(top_k_accuracy_score(truth, probabilities, k=5, labels=range(9)))


def test_top_2_of_ties_and_of_what_was_not_predicted():
    """Equal classes come in their order; no probability, unknown classes and values that are not finite are never right."""
    rows = torch.tensor([[0.4, 0.2, 0.2, 0.2], [1.0, 0.0, 0.0, 0.0], [0.5, float("nan"), 0.5, 0.0]])
    expected = {0: [True, True, False], 1: [True, False, False], 2: [False, False, False], 4: [False, False, False]}
    for truth, right in expected.items():
        assert among_the_first(rows, np.full(3, truth), 2).tolist() == right


def test_seeds_are_summarised_by_the_sample_s_deviation():
    found = over_seeds(4, [0.5, 0.6, 0.7])
    assert found["seed"] == [4, 5, 6]
    assert found["mean"] == pytest.approx(0.6) and found["std"] == pytest.approx(0.1)


def test_leaks_are_counted_and_named(caplog):
    digest = torch.tensor([[1], [2], [3], [2]]).expand(4, 16).to(torch.uint8)
    train = feature_set([torch.zeros(4, 1)], torch.zeros(4).long(), digests=digest)
    test = feature_set(
        [torch.zeros(3, 1)], torch.zeros(3).long(), digests=digest[[1, 2, 0]] + torch.tensor([[0], [50], [0]]).byte()
    )
    assert find_leaks(train, test) == [(0, 1), (2, 0)]
    train_source = Source("train", [f"/a/train/{i}.png" for i in range(4)], None, [])
    test_source = Source("test", [f"/a/test/{i}.png" for i in "xyz"], None, [])
    named = warn_of_leaks(find_leaks(train, test), train_source, train, test_source, test)
    assert named == [["x.png", "1.png"], ["z.png", "0.png"]]
    assert "LEAK: 2 of 3 test images (test)" in caplog.text and "x.png = 1.png" in caplog.text
    caplog.clear()
    assert warn_of_leaks([], train_source, train, test_source, test) == []
    assert not caplog.text


@pytest.mark.parametrize("classes", [1, 3, 31, 101])
def test_a_confusion_matrix_is_drawn_whatever_the_classes(tmp_path, classes):
    counts = np.eye(classes, dtype=int)
    counts[-1] = 0  # a class without test images
    labels = [f"$class {c} of a very long_name indeed^" for c in range(classes)]
    draw_confusion(counts, labels, "$title", tmp_path / "c.png")
    picture = cv2.imread(str(tmp_path / "c.png"))
    assert min(picture.shape[:2]) > 600
    assert len(np.unique(picture @ [1, 256, 65536])) > 50  # matrix, bar and words, not an empty sheet
