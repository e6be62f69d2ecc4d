"""DINO's linear evaluation on planted images: colours, which raw pixels separate."""

import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dinolab
from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals import linear_dino as protocol
from dinolab.evals.augmented import Training
from dinolab.evals.heads import hold_out
from dinolab.evals.linear_dino import choose_input, linear_dino, random_crop
from dinolab.features.extract import extract
from dinolab.features.pixels import PixelEncoder
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model
from tests.pictures import make_folder

RATES = (1e-7, 0.5, 1e30)  # too small to learn, right, diverges


@pytest.fixture
def folders(tmp_path):
    train = make_folder(tmp_path / "train", per_class=10, classes=3, seed=0)
    return str(train), str(make_folder(tmp_path / "test", per_class=4, classes=3, seed=1))


@pytest.fixture
def encoder():
    vit = ViT(Model(dim=12, depth=5, heads=2, patch_size=4, init="scaled"), 16)
    return BackboneEncoder(vit).requires_grad_(False).eval()


def evaluate_pixels(folders, **options):
    train_images, test_images = (open_source(path) for path in folders)
    encoder = PixelEncoder()
    train, test = (extract(encoder, source, 16, patches=True, progress=False) for source in (train_images, test_images))
    training = Training(8, 12, options.pop("rates", RATES))
    layer, found = linear_dino(encoder, train_images, train, (16, 16), training, progress=False, **options)
    return layer.probabilities(test), found, test


def test_the_rate_that_learns_is_chosen_and_classifies_colours(folders):
    probabilities, found, test = evaluate_pixels(folders)
    assert found["chosen"]["rate"] == 0.5
    assert [head["rate"] for head in found["grid"]] == list(RATES)
    assert found["chosen"]["rate"] == max(found["grid"], key=lambda head: head["accuracy"])["rate"]
    assert found["held_out_images"] == 3 and found["steps"] == 8 * 27 // 12
    assert (probabilities.argmax(1) == test.labels).float().mean() > 0.9
    torch.testing.assert_close(probabilities.sum(1), torch.ones(12))


def test_held_out_training_images_choose(folders, monkeypatch):
    """With the wrong labels for the held-out images, the rate that learns is the worst choice."""
    train_images = open_source(folders[0])
    held = hold_out(torch.from_numpy(train_images.labels), 0.1, seed=0).numpy()
    wrong = Source(
        "wrong",
        train_images.paths,
        np.where(held, (train_images.labels + 1) % 3, train_images.labels),
        train_images.classes,
    )
    monkeypatch.setattr(protocol, "hold_out", lambda *_: torch.from_numpy(held))  # the same, whatever the labels
    features = [extract(PixelEncoder(), s, 16, patches=True, progress=False) for s in (train_images, wrong)]
    training = Training(8, 12, (1e-7, 0.5))

    right, poisoned = (
        linear_dino(PixelEncoder(), train_images, train, (16, 16), training, progress=False)[1] for train in features
    )
    assert right["chosen"]["rate"] == 0.5
    assert poisoned["grid"][1]["accuracy"] == 0


def test_one_rate_holds_nothing_out(folders):
    found = evaluate_pixels(folders, rates=(0.5,))[1]
    assert found["held_out_images"] == 0 and found["grid"] == [] and found["steps"] == 8 * 30 // 12


def test_layers_side_by_side_are_layers_one_by_one(folders, encoder, monkeypatch):
    """The second of two rates, against a plain loop with a layer of its own."""
    train_images, test_images = (open_source(path) for path in folders)
    train, test = (extract(encoder, source, 16, blocks=4, progress=False) for source in (train_images, test_images))
    seen = []
    monkeypatch.setattr(protocol, "hold_out", lambda labels, *_: torch.arange(len(labels)) < 3)
    loaded = protocol.batches
    monkeypatch.setattr(protocol, "batches", lambda *a: (seen.append(batch) or batch for batch in loaded(*a)))
    rates = (1e-9, 64.0)
    layer, found = linear_dino(encoder, train_images, train, (16, 16), Training(3, 9, rates), seed=4, progress=False)
    assert found["chosen"]["rate"] == rates[1]

    g = torch.Generator().manual_seed(4)
    nn.init.normal_(torch.empty(3, 48), std=0.01, generator=g)  # the first layer's draw
    weight = nn.init.normal_(torch.empty(3, 48), std=0.01, generator=g).requires_grad_()
    bias = torch.zeros(3, requires_grad=True)
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step, (views, labels) in enumerate(seen):
        x = torch.cat([out.cls for out in encoder.layers(views, 4)], 1)
        rate = rates[1] * 9 / 256 * 0.5 * (1 + np.cos(np.pi * step / len(seen)))
        loss = F.cross_entropy(x @ weight.T + bias, labels)
        for parameter, held, gradient in zip((weight, bias), momentum, torch.autograd.grad(loss, (weight, bias))):
            held.mul_(0.9).add_(gradient)
            parameter.data -= rate * held
    expected = (test.matrix(blocks=4) @ weight.T + bias).softmax(1)
    torch.testing.assert_close(layer.probabilities(test), expected, rtol=1e-3, atol=1e-5)


def test_what_the_layer_sees_depends_on_the_width():
    narrow = BackboneEncoder(ViT(Model(dim=384, depth=1, heads=6, patch_size=4), 8))
    wide = BackboneEncoder(ViT(Model(dim=768, depth=1, heads=12, patch_size=4), 8))
    assert choose_input(narrow) == (4, "cls") and choose_input(wide) == (1, "both")
    narrow.has_class_token = False
    assert choose_input(narrow) == (1, "cls")


def test_crops_are_those_of_torchvision_and_flips_are_half_of_them():
    transforms = pytest.importorskip("torchvision.transforms")
    ramp = np.stack([np.broadcast_to(np.arange(200.0)[None], (100, 200))] * 3, 2).astype(
        np.uint8
    )  # its column, everywhere
    crops = [random_crop(ramp, np.random.default_rng(n), (8, 8)).float() for n in range(600)]
    assert crops[0].shape == (3, 8, 8)
    width = torch.stack([(crop[0, 0, -1] - crop[0, 0, 0]) * 8 / 7 for crop in crops])
    assert 0.42 < (width < 0).float().mean() < 0.58
    theirs = [
        transforms.RandomResizedCrop.get_params(torch.empty(3, 100, 200), (0.08, 1), (3 / 4, 4 / 3)) for _ in range(600)
    ]
    expected = torch.tensor([float(box[3]) for box in theirs])
    assert abs(width.abs().mean() - expected.mean()) < 6 and abs(width.abs().std() - expected.std()) < 6


def test_the_encoder_stays_as_it_is_and_a_seed_decides_everything(folders, encoder, tmp_path):
    encoder.train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    how = {"epochs": 2, "batch_size": 10, "cache": "none"}
    first, again, other = (
        dinolab.evaluate("linear-dino", encoder, *folders, tmp_path / str(n), seed=seed, **how)
        for n, seed in enumerate((0, 0, 1))
    )
    assert encoder.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    written = [(tmp_path / str(n) / "predictions.csv").read_text() for n in range(3)]
    assert first == again and written[0] == written[1] != written[2]
    assert {"epochs": 2, "batch_size": 10, "steps": 5}.items() <= first.settings.items()
    assert first.settings["chosen"]["blocks"] == 4 and first.main.interval and first.per_class
    assert other.seed == 1
    assert len(list(csv.DictReader((tmp_path / "0" / "predictions.csv").open()))) == 12


def test_bad_input(folders, tmp_path):
    for options in ({"lr": 0}, {"lr": [0.1, float("nan")]}, {"epochs": 0}, {"batch_size": -2}):
        with pytest.raises(UserError, match=r"lr=|epochs=|batch_size="):
            dinolab.evaluate("linear-dino", "pixels", *folders, cache="none", **options)
    single = make_folder(tmp_path / "single", per_class=1, classes=2)
    with pytest.raises(UserError, match="two training images"):
        dinolab.evaluate("linear-dino", "pixels", str(single), folders[1], size=16, cache="none", epochs=1)
