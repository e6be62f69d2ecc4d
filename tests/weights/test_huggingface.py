"""Hugging Face's models to our ViT and back; random weights, no network."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ConvNextConfig, ConvNextModel

from dinolab.errors import UserError
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.pixels import RGB
from dinolab.weights.huggingface import from_huggingface, to_huggingface
from dinolab.weights.load import load
from tests.weights.foreign import SIZE, assert_same, features_of, random_model


@pytest.mark.parametrize(
    ("kind", "swiglu"),
    [("dino", False), ("dinov2", False), ("dinov2", True), ("registers", False), ("registers", True)],
)
def test_a_folder_of_theirs_is_our_vit(kind: str, swiglu: bool, tmp_path: Path) -> None:
    model = random_model(kind, swiglu)
    model.save_pretrained(tmp_path)
    encoder = load(f"hf:{tmp_path}")
    assert isinstance(encoder.vit, ViT) and encoder.info == {"source": f"hf:{tmp_path}"}
    for size in [(SIZE, SIZE), (56, 24)]:
        images = torch.rand(2, 3, *size)
        assert_same(encoder(images), features_of(model, images))


@pytest.mark.parametrize("changes", [{}, {"layerscale": 0.1, "antialias": False}, {"registers": 2, "ffn": "swiglu"}])
def test_there_and_back(changes: dict) -> None:
    vit = ViT(Model(dim=48, depth=2, heads=4, patch_size=8, **changes), SIZE)
    for p in vit.parameters():
        torch.nn.init.normal_(p, std=0.1)
    back = from_huggingface(to_huggingface(vit), "here")
    assert back.cfg.antialias == vit.cfg.antialias
    for name, tensor in vit.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, atol=0, rtol=0)
    images = torch.rand(2, 3, 56, 24)
    assert_same(BackboneEncoder(back)(images), BackboneEncoder(vit)(images))


def test_other_models_and_missing_ones_are_named(tmp_path: Path) -> None:
    ConvNextModel(ConvNextConfig(hidden_sizes=[4] * 4, depths=[1] * 4)).save_pretrained(tmp_path / "convnext")
    with pytest.raises(UserError, match=r"a convnext model; dinolab reads dinov2, dinov2_with_registers, vit"):
        load(f"hf:{tmp_path / 'convnext'}")
    with pytest.raises(UserError, match=r"^hf:.*none") as error:
        load(f"hf:{tmp_path / 'none'}")
    assert "\n" not in str(error.value)


def test_variants_that_are_not_ours_are_named(tmp_path: Path) -> None:
    random_model("dinov2").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(UserError, match="with relu; dinolab has only"):
        load(f"hf:{tmp_path}")


def test_missing_tensors_are_named_and_not_drawn_at_random(tmp_path: Path) -> None:
    random_model("dinov2").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    del tensors["encoder.layer.1.norm1.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"encoder\.layer\.1\.norm1\.weight"):
        load(f"hf:{tmp_path}")
    weights.write_bytes(b"")
    with pytest.raises(UserError, match=r"^hf:"):
        load(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("content", "mean", "deviation"),
    [
        (None, RGB.mean, RGB.deviation),
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, (0.5,) * 3, (0.25,) * 3),
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_normalize": False}, (0.0,) * 3, (1.0,) * 3),
    ],
)
def test_pixels_are_normalised_as_the_model_was_trained(
    content: dict | None, mean: tuple[float, ...], deviation: tuple[float, ...], tmp_path: Path
) -> None:
    model = random_model("dino")
    model.save_pretrained(tmp_path)
    if content:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    encoder, images = load(f"hf:{tmp_path}"), torch.rand(2, 3, SIZE, SIZE)
    assert (encoder.pixels.mean, encoder.pixels.deviation) == (mean, deviation)
    x = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    with torch.inference_mode():
        expected = model(x).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(images).cls, expected, atol=1e-5, rtol=0)
