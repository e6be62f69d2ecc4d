"""Images of other channels than RGB, from the network to the model card and to other libraries."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dinolab.errors import UserError
from dinolab.export import export
from dinolab.features.pixels import PixelEncoder
from dinolab.models.backbone import make_backbone
from dinolab.models.encoder import BackboneEncoder, Encoder, normalise
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.pixels import RGB, Pixels
from dinolab.weights.initial import start_from
from dinolab.weights.load import load, save_encoder
from dinolab.weights.timm_models import TimmEncoder, to_timm

FIVE = Pixels(5, 65535, (0.1, 0.2, 0.3, 0.4, 0.5), (0.2, 0.3, 0.1, 0.4, 0.5))
SIZE = 24
CFG = Model(dim=16, depth=1, heads=2, patch_size=8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    vit = ViT(CFG, SIZE, pixels=FIVE).eval()
    for p in vit.parameters():
        nn.init.normal_(p, std=0.1)
    (tmp_path / "run").mkdir()
    save_encoder(vit, tmp_path / "run", {})
    return tmp_path / "run"


def test_every_channel_needs_a_mean_and_a_deviation() -> None:
    with pytest.raises(ValueError, match="5 channels, but 3 means and 3 deviations"):
        Pixels(5)
    assert Pixels.from_json(json.loads(json.dumps(FIVE.to_json()))) == FIVE
    with pytest.raises(TypeError):
        Pixels.from_json({"colours": 3})


def test_values_are_scaled_and_normalised_channel_by_channel() -> None:
    stored = torch.tensor([0, 65535]).to(torch.uint16).expand(2, 5, 1, 2)
    found = normalise(stored, FIVE)
    for channel in range(5):
        expected = torch.tensor([0.0 - FIVE.mean[channel], 1.0 - FIVE.mean[channel]]) / FIVE.deviation[channel]
        torch.testing.assert_close(found[1, channel, 0], expected)
    torch.testing.assert_close(normalise(stored.float() / 65535, FIVE), found)


def test_five_channels_are_saved_and_loaded(run: Path) -> None:
    encoder = load(run)
    assert encoder.pixels == FIVE
    stored = torch.randint(0, 65536, (2, 5, SIZE, SIZE)).to(torch.uint16)
    assert isinstance(encoder, BackboneEncoder)
    (expected,) = encoder.backbone([normalise(stored, FIVE)])
    torch.testing.assert_close(encoder(stored).cls, expected.cls, atol=0, rtol=0)
    torch.testing.assert_close(encoder(stored.float() / 65535).cls, expected.cls)
    with pytest.raises(UserError, match=r"takes images of shape \(B, 5, H, W\), not \(2, 3, 24, 24\)"):
        encoder(torch.zeros(2, 3, SIZE, SIZE))
    with pytest.raises(UserError, match=r"takes uint16 images or floats in \[0, 1\], not torch\.uint8"):
        encoder(torch.zeros(2, 5, SIZE, SIZE, dtype=torch.uint8))


def test_a_card_without_pixels_is_of_rgb(tmp_path: Path) -> None:
    save_encoder(ViT(CFG, SIZE), tmp_path, {})
    card = json.loads((tmp_path / "model.json").read_text())
    assert card.pop("pixels") == json.loads(json.dumps(RGB.to_json()))
    (tmp_path / "model.json").write_text(json.dumps(card))
    assert load(tmp_path).pixels == RGB
    (tmp_path / "model.json").write_text(json.dumps(card | {"pixels": {"channels": 4}}))
    with pytest.raises(UserError, match=r"not a dinolab model card \(pixels: 4 channels, but 3 means"):
        load(tmp_path)


def test_weights_of_other_channels_are_no_start(run: Path) -> None:
    with pytest.raises(UserError, match=r"takes images of 5 channels, the images have 3"):
        start_from(ViT(CFG, SIZE), str(run))
    fresh = ViT(CFG, SIZE, pixels=FIVE)
    start_from(fresh, str(run))
    images = torch.rand(1, 5, SIZE, SIZE)
    torch.testing.assert_close(BackboneEncoder(fresh.eval())(images).cls, load(run)(images).cls)


def test_a_start_normalised_in_another_way_computes_the_same(run: Path) -> None:
    """The patch embedding takes up the difference."""
    fresh = ViT(CFG, SIZE, pixels=replace(FIVE, mean=(0.5,) * 5, deviation=(0.3,) * 5))
    start_from(fresh, str(run))
    images = torch.rand(2, 5, SIZE, SIZE)
    torch.testing.assert_close(BackboneEncoder(fresh.eval())(images).cls, load(run)(images).cls, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("to", ["safetensors", "huggingface", "timm", pytest.param("onnx", marks=pytest.mark.slow)])
def test_five_channels_are_exported(to: str, run: Path, tmp_path: Path) -> None:
    out, check = export(run, to, tmp_path / "out")
    assert check.differences[SIZE, SIZE] < 1e-4
    card = (out / "README.md").read_text()
    assert "5 channels" in card or "(B, 5, H, W)" in card
    if to == "timm":
        stored = json.loads((out / "config.json").read_text())["pretrained_cfg"]
        assert stored["input_size"] == [5, SIZE, SIZE]
        assert (stored["mean"], stored["std"]) == ([*FIVE.mean], [*FIVE.deviation])
    if to == "huggingface":
        encoder = load(f"hf:{out}")
        assert (encoder.pixels.mean, encoder.pixels.deviation) == (FIVE.mean, FIVE.deviation)
        images = torch.rand(1, 5, SIZE, SIZE)
        torch.testing.assert_close(encoder(images).cls, load(run)(images).cls, atol=1e-5, rtol=0)
        (out / "preprocessor_config.json").unlink()
        with pytest.raises(UserError, match=r"its preprocessor_config\.json is missing or does not fit"):
            load(f"hf:{out}")


def test_a_resnet_of_five_channels() -> None:
    backbone = make_backbone(Model(size="resnet50"), 64, pixels=FIVE)
    assert backbone.state_dict()["conv1.weight"].shape == (64, 5, 7, 7)
    encoder = BackboneEncoder(backbone.eval())
    assert encoder.pixels == FIVE and encoder(torch.rand(1, 5, 64, 64)).cls.shape == (1, 2048)


def test_every_encoder_keeps_the_protocol() -> None:
    vit = ViT(CFG, SIZE).eval()
    encoders: list[Encoder] = [BackboneEncoder(vit), TimmEncoder(to_timm(vit), {"source": "x"}), PixelEncoder()]
    for encoder in encoders:
        images = torch.randint(0, 256, (2, encoder.pixels.channels, 40, 32), dtype=torch.uint8)
        features = encoder(images)
        assert features.cls.shape == (2, encoder.dim) and features.patches.shape[-1] == encoder.dim
        torch.testing.assert_close(encoder(images.float() / 255).cls, features.cls)
        torch.testing.assert_close(encoder.layers(images, 1)[0].cls, features.cls)
        assert isinstance(encoder.info, dict) and encoder.image_size > 0 and encoder.patch_size > 0
        if encoder.has_class_token:
            assert encoder.attention(images).shape[:1] == (2,)
        else:
            with pytest.raises(UserError, match="no class token"):
                encoder.attention(images)
        with pytest.raises(UserError, match=r"\(B, 3, H, W\)"):
            encoder(images[:, :2])
