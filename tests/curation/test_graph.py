"""The search in lists against the search among all rows, and the whitening that goes before it."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dinolab.curation import compressed, graph, lists
from dinolab.curation.lists import How
from dinolab.curation.parts import Parts
from dinolab.curation.whitening import learn_spread
from dinolab.errors import UserError
from dinolab.features.neighbours import nearest


@pytest.fixture
def rows(monkeypatch):
    """900 rows around 30 centres, in half precision; beyond the number up to which all are compared."""
    monkeypatch.setattr(graph, "EXACT", 100)
    centres = torch.randn(30, 16)
    return (centres[torch.arange(900) % 30] + 0.2 * torch.randn(900, 16)).half()


@pytest.mark.parametrize(("index", "width"), [("lists", 16), ("faiss", 16), ("faiss", 15)])
def test_all_lists_give_the_exact_neighbours(rows, index, width):
    rows = rows[:, :width]
    found = graph.search(rows, None, 5, np.random.default_rng(0), how=How(probes=30, index=index))
    values, where = nearest(rows, rows, 6)
    torch.testing.assert_close(found.similarities, values[:, 1:], rtol=0, atol=1e-5)
    assert (found.indices == where[:, 1:]).float().mean() > 0.99  # others are as near, up to rounding
    assert not (found.indices == torch.arange(900)[:, None]).any()
    assert found.recall == 1
    some = graph.search(rows, rows[:50] * 2, 5, np.random.default_rng(0), how=How(probes=30, index=index))
    torch.testing.assert_close(some.similarities, values[:50, :5], rtol=0, atol=1e-5)


def test_the_recall_says_how_many_a_few_lists_find(rows, monkeypatch):
    monkeypatch.setattr(graph, "MEASURED", 900)
    rows = torch.randn_like(rows)  # without clusters, many neighbours are in other lists
    few = graph.search(rows, None, 25, np.random.default_rng(0), how=How(probes=2))
    truth = nearest(rows, rows, 26)[0][:, -1:]
    assert few.recall == pytest.approx(float((few.similarities >= truth - graph.TOLERANCE).double().mean()))
    assert 0.2 < few.recall < 1
    one = graph.search(rows, None, 25, np.random.default_rng(0), how=How(probes=1))
    assert one.recall < few.recall
    assert torch.equal(graph.search(rows, None, 25, np.random.default_rng(0), how=How(probes=2)).indices, few.indices)


@pytest.mark.parametrize("index", ["lists", "faiss"])
def test_the_recall_needs_no_measured_row_in_every_part(rows, tmp_path, monkeypatch, index):
    monkeypatch.setattr(graph, "MEASURED", 2)
    monkeypatch.setattr(lists, "SEARCHED", 50)
    found = graph.build(rows, None, 5, np.random.default_rng(0), Parts(tmp_path), how=How(probes=30, index=index))
    assert len(found.parts) == 18
    assert found.recall == 1


def test_codes_choose_the_rows_that_are_compared_in_full(rows, monkeypatch):
    monkeypatch.setattr(graph, "MEASURED", 900)
    monkeypatch.setattr(compressed, "MORE", 1)  # the row itself
    rows, truth = torch.randn_like(rows), {}
    for times in (1, 4):
        monkeypatch.setattr(compressed, "TIMES", times)
        found = graph.search(rows, None, 10, np.random.default_rng(0), how=How(probes=30, index="faiss"))
        exact = F.cosine_similarity(rows[:, None].float(), rows[found.indices].float(), dim=2)
        torch.testing.assert_close(found.similarities, exact, rtol=0, atol=1e-5)
        truth[times] = found.recall
    assert 0.3 < truth[1] < truth[4]
    assert truth[4] > 0.9
    few = graph.search(rows, None, 200, np.random.default_rng(0), how=How(probes=1, index="faiss"))
    lacking = few.similarities.isinf()
    assert lacking.any(1).all() and not lacking.all()  # a list holds fewer rows


def test_without_faiss_a_line_says_what_to_install(rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"index=faiss needs the package faiss: pip install 'dinolab\[faiss\]'"):
        graph.search(rows[:10], None, 5, np.random.default_rng(0), how=How(index="faiss"))


def test_whitening_takes_away_what_all_have_in_common():
    rows = torch.randn(200, 8) * torch.tensor([4.0, *[1.0] * 7]) + 5
    pair = torch.cat([rows, rows[:1] + 0.02])
    before = torch.nn.functional.normalize(pair, dim=1)
    assert (before @ before.T).mean() > 0.7
    after = learn_spread(pair, np.random.default_rng(0), "cpu").apply(pair).float()
    similarities = after @ after.T
    assert abs(float(similarities.mean())) < 0.05
    assert similarities[0, -1] > 0.99
    assert after.var(0).max() / after.var(0).min() < before.var(0).max() / before.var(0).min()
