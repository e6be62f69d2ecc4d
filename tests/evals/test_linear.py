"""The grid of linear heads on planted features."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.evals.heads import Heads, Input, hold_out, train_heads
from dinolab.evals.linear import linear, shuffled
from dinolab.features.extract import FeatureSet
from tests.evals.planted import cluster, feature_set

RATES = (1e-9, 1e-2, 1e5)  # too small to learn, right, unstable


def planted(seed, where, images=150):
    """Four blocks and the patches' mean; the class shows in one of them alone."""
    signal, labels = cluster(seed, images, noise=0.5)
    g = torch.Generator().manual_seed(1000 + seed)
    parts = [torch.randn(images, 6, generator=g) for _ in range(5)]
    parts[where] = signal
    return feature_set(parts[:4], labels, parts[4])


@pytest.mark.parametrize(("where", "blocks", "tokens"), [(3, {1, 4}, {"cls", "both"}), (0, {4}, {"cls", "both"}),
                                                         (4, {1, 4}, {"both"})])  # fmt: skip
def test_the_informative_part_and_the_right_rate_are_chosen(where, blocks, tokens):
    train, test = planted(0, where), planted(1, where)
    layer, found = linear(train, 3, progress=False, rates=RATES, steps=60)
    probabilities, chosen = layer.probabilities(test), found["chosen"]
    assert chosen["rate"] == 1e-2
    assert chosen["blocks"] in blocks and chosen["tokens"] in tokens
    assert chosen["accuracy"] == max(head["accuracy"] for head in found["grid"])
    assert len(found["grid"]) == 4 * len(RATES)
    assert (probabilities.argmax(1) == test.labels).float().mean() > 0.9
    torch.testing.assert_close(probabilities.sum(1), torch.ones(150))


def trained(features: FeatureSet, index: Tensor, taken: Input, rates: Sequence[float], steps: int) -> Heads:
    """Heads for three classes, trained on the images of `index`."""
    g = torch.Generator().manual_seed(0)
    heads = Heads(taken.rows(features, index).shape[1], 3, rates, g)
    train_heads([heads], shuffled(features, index, [taken], steps, g, torch.device("cpu")), steps)
    return heads


def test_held_out_images_teach_no_head():
    """Labels of the held-out images decide which head is chosen; the heads themselves stay as they are."""
    train = planted(0, 3)
    held = hold_out(train.labels, 0.1, seed=0)
    fit = (~held).nonzero()[:, 0]
    poisoned = feature_set(train.blocks, train.labels.where(~held, 0), train.patches)
    heads, again = (trained(x, fit, Input(1, "cls"), RATES, 20) for x in (train, poisoned))
    assert torch.equal(heads.weight, again.weight)
    right = linear(train, 3, progress=False, rates=RATES, steps=60)[1]["chosen"]["accuracy"]
    wrong = linear(poisoned, 3, progress=False, rates=RATES, steps=60)[1]["chosen"]["accuracy"]
    assert wrong < right


def test_heads_side_by_side_are_heads_one_by_one():
    """The second of two rates, against a plain loop with one head."""
    train = planted(0, 3, images=60)
    everything = torch.arange(60)
    second = trained(train, everything, Input(4, "both"), (0.5, 0.01), 15).layer(1)

    g = torch.Generator().manual_seed(0)
    weight = nn.init.normal_(torch.empty(2, 3, 30), std=0.01, generator=g)[1].requires_grad_()
    bias = torch.zeros(3, requires_grad=True)
    x = torch.cat([*train.blocks, train.patches], 1)
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step in range(15):
        rate = 0.01 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 15)))
        loss = F.cross_entropy(x @ weight.T + bias, train.labels)  # a batch holds all 60
        for parameter, held, gradient in zip((weight, bias), momentum, torch.autograd.grad(loss, (weight, bias))):
            held.mul_(0.9).add_(gradient)
            parameter.data -= rate * held
    torch.testing.assert_close(second.weight, weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(second.bias, bias, rtol=1e-4, atol=1e-6)


def test_a_head_trained_to_the_end_is_scikit_learn_s_regression():
    """Without a penalty, on classes that overlap, so that there is a best line."""
    train, test = (feature_set([x], y) for x, y in (cluster(0, 240, noise=3.0), cluster(1, 240, noise=3.0)))
    head = trained(train, torch.arange(240), Input(1, "cls"), (0.1,), 1000).layer(0)
    model = LogisticRegression(C=1e6, max_iter=1000).fit(train.matrix().numpy(), train.labels.numpy())
    own = head(test.matrix()).softmax(1).detach()
    expected = torch.from_numpy(model.predict_proba(test.matrix().numpy()))
    torch.testing.assert_close(own, expected, atol=5e-3, rtol=0, check_dtype=False)
    assert 0.5 < (own.argmax(1) == test.labels).float().mean() < 0.98


def test_one_product_gives_every_head_s_logits():
    heads, x = Heads(5, 3, RATES, torch.Generator()), torch.randn(7, 5)
    for number, found in enumerate(heads(x)):
        torch.testing.assert_close(found, heads.layer(number)(x))


def test_an_encoder_with_one_block_has_the_smaller_grid():
    train, labels = cluster(0, 60)
    one = feature_set([train], labels, train)
    found = linear(one, 3, progress=False, rates=RATES, steps=5)[1]
    assert [(head["blocks"], head["tokens"]) for head in found["grid"][:: len(RATES)]] == [(1, "cls"), (1, "both")]


def test_a_share_of_each_class_is_held_out():
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 2 + [3])
    held = hold_out(labels, 0.1, seed=0)
    assert [int(held[labels == c].sum()) for c in range(4)] == [5, 2, 1, 0]
    assert torch.equal(held, hold_out(labels, 0.1, seed=0))
    assert not torch.equal(held, hold_out(labels, 0.1, seed=1))


def test_nothing_to_hold_out_is_refused():
    single = feature_set([torch.randn(3, 4)], torch.arange(3), torch.randn(3, 4))
    with pytest.raises(UserError, match="two training images"):
        linear(single, 3, progress=False)
