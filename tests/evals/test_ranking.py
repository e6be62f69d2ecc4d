"""Rankings, average precision and GAP against the numbers of published code, and at their limits."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dinolab.evals import ranking
from dinolab.evals.ranking import (
    average_precision,
    global_average_precision,
    positions_of,
    precision_at,
    rankings,
    vote_by_best,
)
from dinolab.evals.retrieval_sets import LEVELS
from dinolab.evals.scores import bootstrap_mean

KS = (1, 5, 10)
NONE = np.zeros(0, int)


@pytest.mark.parametrize("level", LEVELS)
def test_revisited_sets(golden: Path, level: str) -> None:
    z = np.load(golden / "retrieval" / "map_inputs.npz")
    truth = json.loads((golden / "retrieval" / "ground_truth.json").read_text())
    expected = json.loads((golden / "retrieval" / "map_results.json").read_text())["setups"][level.lower()]
    orders = [*rankings(torch.from_numpy(z["database"]), torch.from_numpy(z["queries"]))]
    assert (np.stack(orders, 1) == z["ranks"]).all()
    found = []
    for order, lists in zip(orders, truth):
        right, ignored = (np.array([at for name in names for at in lists[name]], int) for names in LEVELS[level])
        positions = positions_of(order, right, ignored)
        found.append([average_precision(positions, len(right)), *(precision_at(positions, k) for k in KS)])
    means = np.nanmean(found, 0)
    assert np.allclose(means, [expected["mAP"], *(expected["mP_at"][str(k)] for k in KS)], rtol=0, atol=1e-9)
    assert np.isnan(found).all(1).sum() == expected["queries_without_positives"]


def test_short_lists(golden: Path) -> None:
    for one in json.loads((golden / "retrieval" / "map_results.json").read_text())["by_hand"]:
        positions = positions_of(np.array(one["order"]), np.array(one["ok"]), np.array(one["junk"] or NONE))
        assert average_precision(positions, len(one["ok"])) == pytest.approx(one["AP"], abs=1e-12)
        for k in KS:
            assert precision_at(positions, k) == pytest.approx(one["P_at"][str(k)], abs=1e-12)
    for one in json.loads((golden / "copydays" / "average_precision.json").read_text()):
        assert average_precision(np.array(one["ranks"], int), one["positives"]) == pytest.approx(one["AP"], abs=1e-12)
    assert math.isnan(average_precision(NONE, 0)) and math.isnan(precision_at(NONE, 5))


def test_copy_detection_s_blocks(golden: Path) -> None:
    z = {name: torch.from_numpy(array) for name, array in np.load(golden / "copydays" / "search.npz").items()}
    expected = json.loads((golden / "copydays" / "search_results.json").read_text())
    original = [torch.arange(40), z["strong_of"], torch.arange(40), torch.arange(40)]
    for name in ("raw", "whitened"):
        nearest = z["nearest_20" if name == "whitened" else "nearest_20_raw"]
        found = [
            average_precision(np.flatnonzero(row == at), 1) for row, at in zip(nearest, torch.cat(original).tolist())
        ]
        assert np.allclose(found, z[f"ap_{name}"], rtol=0, atol=1e-12)
        means = [float(np.mean(part)) for part in np.split(np.array(found), np.cumsum(expected["block_sizes"])[:-1])]
        assert means == pytest.approx([one[f"mAP_{name}"] for one in expected["blocks"].values()], abs=1e-9)


def test_rows_that_are_equally_similar_keep_their_order_in_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = torch.tensor([[0.0, 1], [1, 0], [2, 0], [0, 3], [1, 0]])
    queries = torch.tensor([[1.0, 0], [0, 2]])
    for most, references in [(1 << 24, 16384), (1, 2)]:
        monkeypatch.setattr(ranking, "MOST", most)
        monkeypatch.setattr(ranking, "REFERENCES", references)
        assert [order.tolist() for order in rankings(gallery, queries)] == [[1, 2, 4, 0, 3], [0, 3, 1, 2, 4]]


def test_met(golden: Path) -> None:
    z = {name: torch.from_numpy(array) for name, array in np.load(golden / "video" / "met.npz").items()}
    expected = json.loads((golden / "video" / "met_results.json").read_text())
    classes, labels = z["train_labels"].unique(return_inverse=True)
    truth = z["query_labels"].numpy()
    known = truth >= 0
    similarities = F.normalize(z["queries"].double(), dim=1) @ F.normalize(z["train"].double(), dim=1).T
    for name, one in expected["results"].items():
        best, rows = similarities.topk(one["K"])
        predicted, confidences = vote_by_best(best, labels[rows], len(classes), one["temperature"])
        assert (classes[predicted] == z[f"predictions_{name}"]).all()
        assert np.allclose(confidences, z[f"confidences_{name}"], rtol=0, atol=1e-5)  # float32 there
        right = classes[predicted].numpy() == truth
        gap = global_average_precision(right, confidences, known)
        without = global_average_precision(right[known], confidences[known], known[known])
        assert [gap, without] == pytest.approx([one["GAP"], one["GAP_without_distractors"]], abs=1e-9)
        assert right[known].mean() == pytest.approx(one["ACC"])
    for one in expected["by_hand"]:
        predicted, scores, truth = (np.array(one[name]) for name in ("predictions", "scores", "labels"))
        assert global_average_precision(predicted == truth, scores, truth >= 0) == pytest.approx(one["GAP"])


def test_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    low, high = bootstrap_mean(values, seed=3)
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.1)  # of a mean of 400 normal values
    assert low < values.mean() < high and bootstrap_mean(values, seed=3) == (low, high)
    assert bootstrap_mean(np.ones(5)) == (1, 1)
