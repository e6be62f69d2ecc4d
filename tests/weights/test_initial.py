"""Weights of one model as the start of another."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dinolab.errors import UserError
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.recipes import load_config
from dinolab.weights.initial import resized, start_from
from dinolab.weights.load import load, save_encoder
from tests.methods.test_dino import build, config
from tests.weights.foreign import DEPTH, DIM, PATCH, SIZE, assert_same, official_layout, random_model

OTHER = 56  # pixels of the run that goes on


def run(folder: Path, **changes) -> Path:
    vit = ViT(Model(**{"dim": 48, "depth": 2, "heads": 4, "patch_size": 8} | changes), SIZE)
    for p in vit.parameters():
        nn.init.normal_(p, std=0.1)
    folder.mkdir()
    save_encoder(vit, folder, {})
    return folder


@pytest.mark.parametrize("kind", ["dino", "dinov2", "registers", "hf", "own"])
def test_it_computes_what_the_given_model_computes(kind: str, tmp_path: Path) -> None:
    """At the new run's image size, whose positions are the given ones resampled as the given model resamples them."""
    source, changes = str(tmp_path / "given.pth"), {"dim": DIM, "depth": DEPTH, "heads": 2}
    if kind == "own":
        source = str(run(tmp_path / "given", layerscale=0.3, ffn="swiglu", antialias=False))
        changes = {"dim": 48, "depth": 2, "heads": 4, "ffn": "swiglu"}
    elif kind == "hf":
        random_model("dinov2").save_pretrained(tmp_path / "given")
        source = f"hf:{tmp_path / 'given'}"
    else:
        torch.save(official_layout(random_model(kind)), source)
        source += ":heads=2"
    registers, layerscale = 4 if kind == "registers" else 0, 0.0 if kind == "dino" else 0.01
    cfg = Model(**changes, patch_size=PATCH, registers=registers, layerscale=layerscale, drop_path=0.3, init="scaled")
    for size in (OTHER, SIZE):
        vit = ViT(cfg, size)
        start_from(vit, source)
        images = torch.rand(2, 3, size, size)
        assert_same(BackboneEncoder(vit.eval())(images), load(source)(images))
        assert all(p.requires_grad for p in vit.parameters())


def test_a_size_by_name_is_the_same_as_by_numbers(tmp_path: Path) -> None:
    given = run(tmp_path / "given", dim=192, depth=0, heads=0, size="tiny")
    vit = ViT(Model(size="small", dim=192, depth=12, heads=3, patch_size=8), SIZE)
    start_from(vit, str(given))
    before = load(given).backbone.state_dict()
    assert before.keys() == vit.state_dict().keys()
    for name, tensor in vit.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"patch_size": 4, "registers": 4}, "model.patch_size=4 model.registers=4"),
        ({"layerscale": 1e-5}, "model.layerscale=1e-05"),
        ({"heads": 3}, "model.heads=3"),
        ({"size": "tiny", "dim": 0, "depth": 0, "heads": 0, "ffn": "swiglu"},
         "model.size=tiny model.dim=0 model.depth=0 model.heads=0 model.ffn=swiglu"),
    ],
)  # fmt: skip
def test_the_options_to_set_are_told_and_do_it(given: dict, words: str, tmp_path: Path) -> None:
    source = str(run(tmp_path / "given", **given))
    views = ["views.global_size=40", "views.local_size=24"]
    own = ["model.dim=48", "model.depth=2", "model.heads=4", "model.patch_size=8", *views]
    with pytest.raises(UserError) as error:
        start_from(ViT(load_config(None, own).model, SIZE), source)
    said = str(error.value)
    assert said.startswith(f"init.weights={source} has another architecture (ViT of ")
    assert said.endswith(f" set {words}")
    start_from(ViT(load_config(None, [*own, *words.split()]).model, SIZE), source)


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "r.pth")
    vit = ViT(Model(dim=48, depth=2, heads=4, patch_size=8), SIZE)
    with pytest.raises(UserError, match=r"^init\.weights=timm:.*: a timm model"):
        start_from(vit, f"timm:resnet10t={tmp_path / 'r.pth'}")
    with pytest.raises(UserError, match=r"none: no model\.json there"):
        start_from(vit, str(tmp_path / "none"))


def test_a_methods_state_at_another_size() -> None:
    cfg = config("method=dinov2")
    method = build(cfg).float()
    state, size = method.state_dict(), 2 * cfg.views.global_size
    cfg.views.global_size = size
    larger = build(cfg).float()
    larger.load_state_dict(resized(state, cfg.model, size))
    images = torch.randn(2, 3, size, size)
    for part in ("student", "teacher"):
        before, after = (getattr(m.eval(), part)["backbone"] for m in (method, larger))
        torch.testing.assert_close(after([images])[0].cls, before([images])[0].cls)
        assert after.pos_embed.shape[1] == 1 + 4 * (before.pos_embed.shape[1] - 1)
    unchanged = resized(state, cfg.model, size // 2)
    assert all(unchanged[name] is tensor for name, tensor in state.items())


def test_cards_from_before_an_option_are_read(tmp_path: Path) -> None:
    card = run(tmp_path / "old") / "model.json"
    content = json.loads(card.read_text())
    del content["model"]["interpolate_offset"]
    card.write_text(json.dumps(content))
    assert load(tmp_path / "old").vit.cfg.interpolate_offset == 0.0


def test_a_device_that_is_not_there_is_named(tmp_path):
    save_encoder(ViT(Model(dim=16, depth=1, heads=2, patch_size=8), 16), tmp_path, {})
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(UserError, match=rf"device={device}: .* cannot be put there"):
            load(tmp_path, device)
