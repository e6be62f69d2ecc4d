"""Fine-tuning on planted images: colours, and an encoder that is blind to them until its weights may change."""

import csv
import random
import sys

import numpy as np
import pytest
import timm
import torch

import dinolab
from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.evals import finetune_training as finetune
from dinolab.evals.augmented import Augmented, Training, batches
from dinolab.evals.state import checksum
from dinolab.features.extract import extract
from dinolab.models.convnet import ConvNet
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.weights.timm_models import TimmEncoder
from tests.pictures import make_folder

ViTS = {"depth": 3, "heads": 2, "patch_size": 4, "registers": 1, "init": "scaled"}


@pytest.fixture
def folders(tmp_path):
    train = make_folder(tmp_path / "train", per_class=10, classes=3, seed=0)
    return str(train), str(make_folder(tmp_path / "test", per_class=10, classes=3, seed=1))


@pytest.fixture
def encoder():
    return BackboneEncoder(ViT(Model(dim=16, **ViTS), 16)).requires_grad_(False).eval()


def timm_vit():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=3, num_heads=2, num_classes=0,
        dynamic_img_size=True,
    )  # fmt: skip
    return TimmEncoder(model, {"source": "timm:made up"})


def test_it_learns_what_the_frozen_features_cannot_tell(folders, encoder):
    encoder.backbone.patch_embed.proj.weight.zero_()  # every image alike
    frozen = dinolab.evaluate("knn", encoder, *folders, cache="none")
    tuned = dinolab.evaluate("finetune", encoder, *folders, cache="none", epochs=20, batch_size=10, lr=0.2)
    assert frozen.main.value < 0.4
    assert tuned.main.value > 0.8


@pytest.mark.parametrize(("info", "decay"), [({}, 0.65), ({"untrained": "runs/mine"}, 1.0)])
def test_initial_weights_have_one_rate_in_all_layers(folders, encoder, monkeypatch, info, decay):
    encoder.info = info
    plain, rates = finetune.parameter_groups, []
    monkeypatch.setattr(finetune, "parameter_groups", lambda *args: rates.append(args[2]) or plain(*args))
    result = dinolab.evaluate("finetune", encoder, *folders, cache="none", epochs=1, batch_size=10)
    assert rates == [decay] and result.settings["layer_decay"] == decay


@pytest.mark.parametrize("kind", ["ours", "timm"])
def test_each_layer_has_its_factor(encoder, kind):
    """Head 1, last block and final norm 0.65, ..., embeddings 0.65^(blocks + 1)."""
    model = finetune.Classifier(encoder if kind == "ours" else timm_vit(), 16, 3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = finetune.parameter_groups(model, rate=2.0, decay=finetune.LAYER_DECAY)
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert set(found) == set(names.values())
    for name, (rate, decay) in found.items():
        power = 4
        if name.startswith("head"):
            power = 0
        elif ".norm." in name:
            power = 1
        elif ".blocks." in name:
            power = 3 - int(name.split(".")[3])
        assert rate == pytest.approx(2 * 0.65**power), name
        matrix = model.get_parameter(name).ndim > 1 and not name.endswith(("_token", "_tokens", "pos_embed"))
        assert decay == (0.05 if matrix else 0), name
    assert [f"blocks.{b}." in " ".join(found) for b in range(3)] == [True] * 3


@pytest.mark.parametrize("kind", ["backbone", "model"])
def test_layers_of_a_resnet_have_theirs_too(kind):
    """Ours and timm's."""
    theirs = TimmEncoder(timm.create_model("resnet50", num_classes=0), {"source": "timm:resnet50"})
    resnet = theirs if kind == "model" else BackboneEncoder(ConvNet(Model(size="resnet50"), 64))
    model = finetune.Classifier(resnet, 2048, 3)
    of = {name: model.group_matcher(False)(name) for name, _ in model.named_parameters()}
    assert of[f"encoder.{kind}.conv1.weight"] == 0 and of[f"encoder.{kind}.layer1.0.conv1.weight"] == 1
    assert of[f"encoder.{kind}.layer4.2.conv3.weight"] == 16 and of["head.weight"] == 17


def test_drop_path_is_set_on_the_copy_alone(encoder):
    ours = finetune.Classifier(encoder, 16, 3)
    ours.set_drop_path(0.3)
    assert (ours.encoder.backbone.cfg.drop_path, encoder.backbone.cfg.drop_path) == (0.3, 0)
    original = timm_vit()
    theirs = finetune.Classifier(original, 16, 3)
    theirs.set_drop_path(0.3)
    rates = [block.drop_path2.drop_prob for block in theirs.encoder.model.blocks]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(0.3)
    assert isinstance(original.model.blocks[2].drop_path2, torch.nn.Identity)
    theirs.train()
    images = torch.rand(64, 3, 16, 16)
    assert not torch.equal(theirs(images), theirs(images))  # something is dropped


def test_the_learning_rate_rises_and_falls():
    factors = [finetune.warm_cosine(step, 5, 100) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert factors[5] == 1 and sorted(factors[5:], reverse=True) == factors[5:]
    assert 0 < factors[-1] < 1e-3
    assert finetune.warm_cosine(0, 0, 1) == 1


@pytest.mark.parametrize("kind", ["ours", "timm"])
def test_the_caller_s_encoder_stays_and_a_seed_decides_everything(folders, encoder, kind, tmp_path):
    network = encoder if kind == "ours" else timm_vit().requires_grad_(False).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    how = {"epochs": 2, "batch_size": 10, "cache": "none", "size": 16}
    first, again, other = (
        dinolab.evaluate("finetune", network, *folders, tmp_path / str(n), seed=seed, **how)
        for n, seed in enumerate((0, 0, 1))
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters()) and not network.training
    written = [(tmp_path / str(n) / "predictions.csv").read_text() for n in range(3)]
    assert first == again and written[0] == written[1] != written[2]
    assert {"epochs": 2, "steps": 6, "batch_size": 10, "rate": 5e-4}.items() <= first.settings.items()
    assert (tmp_path / "0" / "confusion.png").is_file() and (tmp_path / "0" / "result.json").is_file()
    assert first.main.interval and first.per_class and first.leaks == [] and other.seed == 1


@pytest.mark.parametrize("damage", [None, "no state", "betas"])
def test_a_training_that_was_stopped_goes_on_as_if_nothing_had_been(folders, encoder, tmp_path, monkeypatch, damage):
    monkeypatch.setattr("dinolab.evals.state.EVERY", 0.0)
    options = {"cache": "none", "epochs": 4, "batch_size": 10, "lr": 0.1}
    whole = dinolab.evaluate("finetune", encoder, *folders, tmp_path / "whole", **options)
    assert {file.name for file in (tmp_path / "whole").iterdir()} == {
        "result.json", "predictions.csv", "confusion.png", "layer.safetensors", "network",
    }  # fmt: skip

    plain, steps = finetune.SoftTargetCrossEntropy.forward, []

    def counting(*args):
        steps.append(1)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(finetune.SoftTargetCrossEntropy, "forward", counting)
    with pytest.raises(KeyboardInterrupt):
        dinolab.evaluate("finetune", encoder, *folders, tmp_path / "stopped", **options)
    file = tmp_path / "stopped" / "state_0.pt"
    if damage == "no state":
        file.write_bytes(b"no state")
    elif damage:  # loads, and would end the training in its next step
        state = torch.load(file)
        del state["optimizer"]["param_groups"][0]["betas"]
        torch.save(state, file)
    again = dinolab.evaluate("finetune", encoder, *folders, tmp_path / "stopped", **options)
    assert again.settings["steps"] == 12
    assert len(steps) == (7 + 12 if damage else 7 + 6)
    same = [(tmp_path / name / "predictions.csv").read_text() for name in ("whole", "stopped")]
    assert same[0] == same[1] and again.main == whole.main
    assert not list((tmp_path / "stopped").glob("*.pt"))


def test_a_state_whose_elements_share_memory_is_damaged():
    assert checksum(torch.zeros(1).expand(4)) != checksum(torch.zeros(4))


def test_the_trained_network_and_its_layer_are_kept(folders, encoder, tmp_path):
    dinolab.evaluate("finetune", encoder, *folders, tmp_path / "out", cache="none", epochs=4, batch_size=10, lr=0.1)
    with (tmp_path / "out" / "predictions.csv").open() as opened:
        kept = [row["predicted"] for row in csv.DictReader(opened)]
    (tmp_path / "out").rename(tmp_path / "moved")
    assert dinolab.predict(tmp_path / "moved", folders[1]).labels == kept
    dinolab.evaluate("finetune", timm_vit(), *folders, tmp_path / "moved", cache="none", epochs=1, size=16)
    assert not (tmp_path / "moved" / "layer.safetensors").exists()  # dinolab cannot save its network


def test_the_state_of_another_training_is_not_taken(folders, encoder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dinolab.evals.state.EVERY", 0.0)
    monkeypatch.setattr("dinolab.evals.evaluate.write_result", lambda *_: 1 / 0)
    for rate in (0.1, 0.2):
        with pytest.raises(ZeroDivisionError):
            dinolab.evaluate("finetune", encoder, *folders, tmp_path, cache="none", epochs=1, batch_size=10, lr=rate)
    assert "the state of another training is there" in caplog.text


def test_draws_inside_are_the_seed_s_and_those_after_as_if_nothing_had_been():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    with finetune.seeded(7):
        first = draw()
    for n in (1, 2):
        random.seed(n), np.random.seed(n), torch.manual_seed(n)  # noqa: NPY002
        expected = draw()
        random.seed(n), np.random.seed(n), torch.manual_seed(n)  # noqa: NPY002
        with finetune.seeded(7):
            assert draw() == first
        assert draw() == expected


def test_workers_change_no_view(folders):
    source = open_source(folders[0])
    images = Augmented(source.paths, torch.from_numpy(source.labels), finetune.Augment((16, 16)), seed=3)
    here, there = (list(batches(images, 7, 10, "cpu", workers)) for workers in (0, 2))
    assert all(torch.equal(x, y) and torch.equal(a, b) for (x, a), (y, b) in zip(here, there, strict=True))
    assert sorted(label for _, labels in here[:3] for label in labels.tolist()) == sorted(source.labels.tolist())
    one = Augmented(source.paths[:1], torch.zeros(1), finetune.Augment((16, 16)), seed=3)
    assert not torch.equal(one[0][0], one[1][0])  # another view in the second epoch


def test_a_test_set_without_labels_gets_predictions_alone(folders, encoder, tmp_path):
    flat = make_folder(tmp_path / "flat", per_class=3, classes=1) / "class0"
    found = dinolab.evaluate("finetune", encoder, folders[0], str(flat), tmp_path / "out", cache="none", epochs=1)
    assert not found.figures
    assert not (tmp_path / "out" / "confusion.png").exists()
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 4


def test_bad_input(folders, encoder, tmp_path):
    how = {"cache": "none", "epochs": 1}
    with pytest.raises(UserError, match="no other encoder"):
        dinolab.evaluate("finetune", "pixels", *folders, **how)
    with pytest.raises(UserError, match="lr"):
        dinolab.evaluate("finetune", encoder, *folders, lr=(0.1, 0.2), **how)
    with pytest.raises(UserError, match="two images"):
        dinolab.evaluate("finetune", encoder, *folders, batch_size=1, **how)
    source = open_source(folders[0])
    features = extract(encoder, source, 16, progress=False)
    with pytest.raises(UserError, match=r"not a number after .* below lr=1e\+30"):
        finetune.finetune(encoder, source, features, [source], (16, 16), Training(1, 10, (1e30,)), progress=False)


def test_classes_that_are_none_of_the_training_s_are_refused_before_it(folders, encoder, tmp_path, monkeypatch):
    monkeypatch.delattr(finetune, "finetune")
    other = make_folder(tmp_path / "other", per_class=2, classes=2)
    for c in range(2):
        (other / f"class{c}").rename(other / f"another{c}")
    with pytest.raises(UserError, match="no class in common"):
        dinolab.evaluate("finetune", encoder, folders[0], str(other), cache="none")


def test_an_image_that_vanishes_is_named(folders):
    source = open_source(folders[0])
    images = Augmented([*source.paths[:3], "gone.png"], torch.zeros(4), finetune.Augment((16, 16)), seed=0)
    with pytest.raises(UserError, match=r"gone\.png.* could be read before"):
        list(batches(images, 1, 4, "cpu", 0))


def test_without_timm_one_line_says_what_to_install(folders, encoder, monkeypatch):
    import dinolab.evals

    monkeypatch.delitem(sys.modules, "dinolab.evals.finetune_training")
    monkeypatch.delattr(dinolab.evals, "finetune_training", raising=False)
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(UserError, match=r"needs timm: pip install 'dinolab\[timm\]'"):
        dinolab.evaluate("finetune", encoder, *folders, cache="none")
