"""timm's models behind the encoder's contract; random weights, no network."""

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from torch import nn
from torchvision.models import resnet50

from dinolab.errors import UserError
from dinolab.models.backbone import make_backbone
from dinolab.models.encoder import BackboneEncoder, normalise
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.weights.load import load
from dinolab.weights.timm_models import TimmEncoder, to_timm
from tests.weights.foreign import assert_same


def our_vit(**changes) -> ViT:
    vit = ViT(Model(dim=48, depth=3, heads=4, patch_size=8, **changes), 40).eval()
    for p in vit.parameters():
        nn.init.normal_(p, std=0.1)
    return vit


@pytest.mark.parametrize("changes", [{}, {"layerscale": 0.1, "registers": 2}, {"registers": 3, "ffn": "swiglu"}])
def test_our_weights_in_timm_give_our_features(changes: dict) -> None:
    ours = BackboneEncoder(our_vit(**changes))
    theirs = TimmEncoder(to_timm(ours.vit), {})
    assert (theirs.dim, theirs.patch_size) == (ours.dim, ours.patch_size)
    for size in [(40, 40), (56, 24), (61, 35)]:  # the last with remainders, which neither sees
        images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        assert_same(theirs(images), ours(images))
        for a, b in zip(theirs.layers(images, 2), ours.layers(images, 2), strict=True):
            assert_same(a, b)
        torch.testing.assert_close(theirs.attention(images), ours.attention(images), atol=1e-6, rtol=0)
    assert_same(theirs(images), ours(images))  # the fused kernel is back after attention()


def test_a_timm_vit_has_its_own_normalisation(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0).eval()
    assert model.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        tokens = model.forward_features((images - 0.5) / 0.5)
        features = TimmEncoder(model, {})(images)
    torch.testing.assert_close(features.cls, tokens[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(features.patches.flatten(1, 2), tokens[:, 1:], atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"^x does not take images of \(32, 32\) pixels"):
        TimmEncoder(model, {"source": "x"})(images[..., :32, :32])


def test_resnet_50_with_the_weights_of_a_file(tmp_path: Path) -> None:
    """torchvision's, and DINO's, names are timm's; the classifier is left out."""
    reference = resnet50().eval()
    torch.save({"teacher": {f"module.backbone.{k}": v for k, v in reference.state_dict().items()}}, tmp_path / "r.pth")
    encoder = load(f"timm:resnet50={tmp_path / 'r.pth'}")
    assert (encoder.dim, encoder.patch_size, encoder.image_size) == (2048, 32, 224)
    assert encoder.info == {"source": f"timm:resnet50={tmp_path / 'r.pth'}"} and not encoder.training
    images = torch.rand(2, 3, 64, 96)
    reference.fc = nn.Identity()
    with torch.inference_mode():
        expected = reference(normalise(images))
    features = encoder(images)
    scale = expected.abs().max()  # channels last, sums have another order
    torch.testing.assert_close(features.cls / scale, expected / scale, atol=1e-5, rtol=0)
    torch.testing.assert_close(features.patches.mean((1, 2)) / scale, expected / scale, atol=1e-5, rtol=0)
    assert features.patches.shape == (2, 2, 3, 2048) and features.registers.shape == (2, 0, 2048)
    with pytest.raises(UserError, match="no attention of a class token"):
        encoder.attention(images)
    with pytest.raises(UserError, match="only its last layer"):
        encoder.layers(images, 4)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet50", "ours", "vit"])
def test_only_networks_of_convolutions_compute_channels_last(name: str) -> None:
    if name in ("ours", "vit"):
        encoder: Any = BackboneEncoder(make_backbone(Model(size="resnet50"), 64) if name == "ours" else our_vit())
    else:
        encoder = TimmEncoder(timm.create_model(name, num_classes=0), {})
    encoder.eval()
    layouts = []
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, x, y: layouts.append((y.shape[-1], last(x[0]) and last(y))))
    features = encoder(torch.rand(2, 3, 64, 96))
    assert features.cls.shape == (2, encoder.dim) and features.patches.shape[-1] == encoder.dim
    assert all(is_last for side, is_last in layouts if side > 1) == (name != "vit")


def last(x: torch.Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def test_a_rotary_model_with_registers_takes_any_size() -> None:
    model = timm.create_model("vit_small_patch16_dinov3", embed_dim=64, depth=2, num_heads=2, num_classes=0).eval()
    encoder = TimmEncoder(model, {})
    features = encoder(torch.rand(2, 3, 50, 32))
    assert (
        features.cls.shape == (2, 64)
        and features.registers.shape == (2, 4, 64)
        and features.patches.shape == (2, 3, 2, 64)
    )
    weights = encoder.attention(torch.rand(2, 3, 50, 32))
    assert weights.shape == (2, 2, 11, 11)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 11))


def official_dinov3(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of timm's model under the names of Meta's file, with what timm leaves out."""
    names = (("reg_token", "storage_tokens"), (".gamma_1", ".ls1.gamma"), (".gamma_2", ".ls2.gamma"))
    tensors = {"mask_token": torch.zeros(1, 64), "rope_embed.periods": torch.ones(4)}
    for name, tensor in model.state_dict().items():
        for theirs, official in names:
            name = name.replace(theirs, official)
        tensors[name] = tensor
        if name.endswith("attn.qkv.weight"):
            tensors[name.replace("weight", "bias")] = torch.zeros(3 * 64)
            tensors[name.replace("weight", "bias_mask")] = torch.zeros(3 * 64)
    return tensors


def test_the_official_file_of_dinov3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    create = timm.create_model

    def small(name: str, **options: Any) -> Any:
        return create(name, embed_dim=64, depth=2, num_heads=2, **options)

    model = small("vit_small_patch16_dinov3", num_classes=0).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    torch.save(official_dinov3(model), tmp_path / "dinov3.pth")
    monkeypatch.setattr(timm, "create_model", small)
    images = torch.rand(2, 3, 48, 32)
    found, expected = (
        load(f"timm:vit_small_patch16_dinov3={tmp_path / 'dinov3.pth'}")(images),
        TimmEncoder(model, {})(images),
    )
    for one, other in zip(found, expected):
        assert torch.equal(one, other)
    assert capsys.readouterr().out == ""
    tensors = official_dinov3(model)
    tensors["blocks.1.attn.qkv.bias"][64:128] = 1  # of the keys, without effect
    torch.save(tensors, tmp_path / "dinov3.pth")
    load(f"timm:vit_small_patch16_dinov3={tmp_path / 'dinov3.pth'}")
    tensors["blocks.1.attn.qkv.bias"][3] = 1
    torch.save(tensors, tmp_path / "dinov3.pth")
    with pytest.raises(UserError, match=r"blocks\.1\.attn\.qkv\.bias is not zero.*_qkvb"):
        load(f"timm:vit_small_patch16_dinov3={tmp_path / 'dinov3.pth'}")
    load(f"timm:vit_small_patch16_dinov3_qkvb={tmp_path / 'dinov3.pth'}")
    tensors = official_dinov3(model)
    del tensors["blocks.1.norm1.bias"]
    torch.save(tensors, tmp_path / "dinov3.pth")
    with pytest.raises(UserError, match=r"blocks\.1\.norm1\.bias is missing"):
        load(f"timm:vit_small_patch16_dinov3={tmp_path / 'dinov3.pth'}")


def test_a_file_without_counters_of_batches(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=0)
    torch.save(
        {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}, tmp_path / "r.pth"
    )
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(
        load(f"timm:resnet10t={tmp_path / 'r.pth'}")(images).cls, TimmEncoder(model.eval(), {})(images).cls
    )


def test_misfits_and_bad_images_are_named(tmp_path: Path) -> None:
    tensors = timm.create_model("resnet10t", num_classes=0).state_dict()
    del tensors["layer1.0.bn1.bias"]
    torch.save(tensors, tmp_path / "r.pth")
    with pytest.raises(UserError, match=r"r\.pth is not timm's resnet10t: layer1\.0\.bn1\.bias is missing"):
        load(f"timm:resnet10t={tmp_path / 'r.pth'}")
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        load(f"timm:resnet10t={tmp_path / 'none.pth'}")
    encoder = TimmEncoder(timm.create_model("resnet10t", num_classes=0), {"source": "x"})
    for images in (torch.zeros(3, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.long), torch.zeros(1, 3, 8, 64)):
        with pytest.raises(UserError, match="images"):
            encoder(images)


def test_what_timm_does_not_have_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("nonesuch", "resnet10t.nonesuch", "resnet10t", "hf-hub:nobody/nothing"):
        with pytest.raises(UserError, match=f"^timm:{name}: ") as error:
            load(f"timm:{name}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["timm:resnet10t", "hf:nobody/nothing"])
def test_without_a_network_a_model_that_is_not_cached_fails_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=f"^{name}: http://127.0.0.1:1 cannot be reached, and .* not in the cache"):
        load(name)
    assert "Retrying" not in capfd.readouterr().err
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("library", "source"), [("timm", "timm:resnet50"), ("transformers", "hf:facebook/dino-vits16")]
)
def test_a_missing_library_is_named(library: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"pip install 'dinolab\[{library}\]'"):
        load(source)
