"""Files in the layout of Meta's, with random weights, against Hugging Face's models."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dinolab.errors import UserError
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.weights.load import load
from tests.weights.foreign import DEPTH, DIM, PATCH, SIZE, assert_same, features_of, official_layout, random_model


@pytest.mark.parametrize(
    ("kind", "swiglu"),
    [("dino", False), ("dinov2", False), ("dinov2", True), ("registers", False), ("registers", True)],
)
def test_an_official_file_equals_hugging_face(kind: str, swiglu: bool, tmp_path: Path) -> None:
    model = random_model(kind, swiglu)
    torch.save(official_layout(model), tmp_path / "official.pth")
    encoder = load(tmp_path / "official.pth", heads=2)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert (encoder.dim, encoder.patch_size, encoder.image_size) == (DIM, PATCH, SIZE)
    assert encoder.info["source"].endswith("official.pth")
    assert encoder.vit.cfg.interpolate_offset == (0.0 if kind == "registers" else 0.1)
    encoder.vit.cfg.interpolate_offset = 0.0  # as Hugging Face; the published formula is in test_vit.py
    for size in [(SIZE, SIZE), (56, 24)]:
        images = torch.rand(2, 3, *size)
        assert_same(encoder(images), features_of(model, images))


def test_half_precision_and_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = official_layout(random_model("dinov2"))
    save_file({name: t.half() for name, t in tensors.items()}, tmp_path / "official.safetensors")
    encoder = load(tmp_path / "official.safetensors", heads=2)
    torch.testing.assert_close(encoder.vit.norm.weight, tensors["norm.weight"].half().float(), atol=0, rtol=0)


def test_a_training_checkpoint_of_dino_gives_its_teacher(tmp_path: Path) -> None:
    teacher, student = random_model("dino"), random_model("dino")
    whole = {
        "student": {f"module.backbone.{k}": v for k, v in official_layout(student).items()},
        "teacher": {f"backbone.{k}": v for k, v in official_layout(teacher).items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
    }
    whole["student"]["module.head.mlp.0.weight"] = whole["teacher"]["head.mlp.0.weight"] = torch.zeros(2, 2)
    images = torch.rand(2, 3, SIZE, SIZE)
    torch.save(whole, tmp_path / "full.pth")
    assert_same(load(tmp_path / "full.pth", heads=2)(images), features_of(teacher, images))
    del whole["teacher"]
    torch.save(whole, tmp_path / "student.pth")
    assert_same(load(tmp_path / "student.pth", heads=2)(images), features_of(student, images))


def test_a_training_checkpoint_of_dinov2_has_blocks_in_chunks(tmp_path: Path) -> None:
    model = random_model("registers", swiglu=True)
    tensors = {"dino_head.mlp.0.weight": torch.zeros(2, 2)}
    for name, tensor in official_layout(model).items():
        for i in range(DEPTH):
            name = name.replace(f"blocks.{i}.", f"chunk.{i // 2}.{i}.")  # two blocks a chunk
        tensors[f"backbone.{name.replace('chunk', 'blocks')}"] = tensor
    torch.save({"teacher": tensors}, tmp_path / "teacher_checkpoint.pth")
    images = torch.rand(2, 3, SIZE, SIZE)
    encoder = load(tmp_path / "teacher_checkpoint.pth", heads=2)
    assert_same(encoder(images), features_of(model, images))
    assert (encoder.info["antialias"], encoder.info["interpolate_offset"]) == (False, 0.1)  # as DINOv2 trains


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    tensors = official_layout(random_model("dinov2"))
    del tensors["blocks.1.norm1.bias"]
    tensors["blocks.0.attn.rope"] = torch.zeros(3)
    tensors["norm.weight"] = torch.zeros(DIM - 1)
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(UserError) as error:
        load(tmp_path / "x.pth", heads=2)
    said = str(error.value)
    assert "\n" not in said and "x.pth" in said
    for problem in (
        "blocks.1.norm1.bias is missing",
        "blocks.0.attn.rope is unknown",
        "norm.weight is (127,), should be (128,)",
    ):
        assert problem in said


def test_many_misfits_are_counted(tmp_path: Path) -> None:
    tensors = official_layout(random_model("dinov2")) | {f"blocks.0.extra{i:02}": torch.zeros(1) for i in range(20)}
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"extra11 is unknown; and 8 more$"):
        load(tmp_path / "x.pth", heads=2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "truncated or not a PyTorch file"),
        (b"<html>not found</html>", "truncated or not a PyTorch file"),
        ("half", "truncated or not a PyTorch file"),
        ({}, "holds no tensors with names"),
        ([torch.zeros(2)], "holds no tensors with names"),
        ({"last_layer.weight": torch.zeros(2)}, r"not a DINO or DINOv2 backbone: no cls_token, .*last_layer\.weight"),
        ({"conv1.weight": torch.zeros(2), "layer1.0.conv1.weight": torch.zeros(2)}, "differs from DINO's ResNet-50"),
    ],
)
def test_wrong_files_end_in_one_line(content: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(official_layout(random_model("dino")) if content == "half" else content, path)
    if content == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=said) as error:
        load(path)
    assert "\n" not in str(error.value) and "wrong.pth" in str(error.value)


@pytest.mark.parametrize("positions", [1, 3])  # the class token alone; a grid that is no square
def test_positions_that_are_no_grid_are_refused(positions: int, tmp_path: Path) -> None:
    tensors = official_layout(random_model("dino")) | {"pos_embed": torch.zeros(1, positions, DIM)}
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"not a published architecture: width {DIM}, {positions} positions"):
        load(f"{tmp_path / 'x.pth'}:heads=2")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("none.pth", "none.safetensors"):
        with pytest.raises(UserError, match=f"{name}: no such file"):
            load(tmp_path / name)


def test_heads_are_given_where_no_tensor_shows_them(tmp_path: Path) -> None:
    """In Python or behind the file's name; they change the features, and are never guessed."""
    model = random_model("dino")
    torch.save(official_layout(model), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"3 blocks of width 128 .*x\.pth:heads=N"):
        load(tmp_path / "x.pth")
    images = torch.rand(2, 3, SIZE, SIZE)
    for encoder in (load(tmp_path / "x.pth", heads=2), load(f"{tmp_path / 'x.pth'}:heads=2")):
        assert_same(encoder(images), features_of(model, images))
        assert encoder.info["heads"] == 2
    assert (load(tmp_path / "x.pth", heads=4)(images).cls - features_of(model, images).cls).abs().max() > 3e-4
    for wrong in ("heads=0", "heads=two", "heads=3", "heads=2,antialias=perhaps"):
        with pytest.raises(UserError, match=r"heads|antialias"):
            load(f"{tmp_path / 'x.pth'}:{wrong}")
    with pytest.raises(UserError, match="only for official files"):
        load("timm:resnet50", heads=2)


@pytest.mark.parametrize(("size", "heads"), [("small", 6), ("base", 12)])
def test_heads_of_the_published_sizes_are_known(size: str, heads: int, tmp_path: Path) -> None:
    vit = ViT(Model(size=size), 32)
    torch.save(vit.state_dict(), tmp_path / "x.pth")
    assert load(tmp_path / "x.pth").info["heads"] == heads


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("", {"antialias": True, "interpolate_offset": 0.0}),
        ("antialias=false,interpolate_offset=0.1", {"antialias": False, "interpolate_offset": 0.1}),
        ("interpolate_offset=0.2", {"antialias": True, "interpolate_offset": 0.2}),
    ],
)
def test_how_positions_are_resampled_is_given_and_recorded(words: str, changes: dict, tmp_path: Path) -> None:
    vit = ViT(Model(dim=DIM, depth=1, heads=2, patch_size=PATCH, registers=4, **changes), SIZE).eval()
    torch.nn.init.normal_(vit.pos_embed)
    torch.save(vit.state_dict(), tmp_path / "x.pth")
    encoder = load(f"{tmp_path / 'x.pth'}:{','.join(['heads=2', words]).strip(',')}")
    images = torch.rand(1, 3, 24, 32)
    assert_same(encoder(images), BackboneEncoder(vit)(images))
    assert {key: encoder.info[key] for key in changes} == changes


def training_checkpoints() -> dict[str, Callable[[dict, dict], dict]]:
    """How training code saves the tensors of a teacher's and a student's backbone."""

    def both(teacher: str, student: str, **more: Any) -> Callable[[dict, dict], dict]:
        def save(t: dict, s: dict) -> dict:
            return {f"{student}{k}": v for k, v in s.items()} | {f"{teacher}{k}": v for k, v in t.items()} | more

        return save

    head = {"student.dino_head.mlp.0.weight": torch.zeros(2)}
    return {
        "model_0.rank_0.pth": lambda t, s: {
            "model": both("teacher.backbone.", "student.backbone.", **head)(t, s),
            "iteration": 7,
        },
        "solo.ckpt": lambda t, s: {"state_dict": both("momentum_backbone.", "backbone.")(t, s), "epoch": 3},
        "lightly.ckpt": lambda t, s: {"state_dict": both("teacher_backbone.", "student_backbone.")(t, s)},
        "model.ckpt": lambda t, s: {"state_dict": both("model.teacher.backbone.", "model.student.backbone.")(t, s)},
        "compiled.bin": lambda t, s: {f"_orig_mod.{k}": v for k, v in t.items()},
        "checkpoint.pth.tar": lambda t, s: {"state_dict": {f"module._orig_mod.backbone.{k}": v for k, v in t.items()}},
        "fsdp.pth": lambda t, s: {"teacher": {f"backbone._fsdp_wrapped_module.{k}": v for k, v in t.items()}},
    }


@pytest.mark.parametrize("name", training_checkpoints())
def test_training_checkpoints_of_others_give_the_teacher(name: str, tmp_path: Path) -> None:
    teacher, student = random_model("dino"), random_model("dino")
    torch.save(training_checkpoints()[name](official_layout(teacher), official_layout(student)), tmp_path / name)
    images = torch.rand(2, 3, SIZE, SIZE)
    assert_same(load(tmp_path / name, heads=2)(images), features_of(teacher, images))


def test_dinov3_is_sent_to_timm(tmp_path: Path) -> None:
    torch.save(official_layout(random_model("dino")) | {"rope_embed.periods": torch.zeros(4)}, tmp_path / "v3.pth")
    with pytest.raises(UserError, match=r"DINOv3.*timm:vit_small_patch16_dinov3=.*v3\.pth"):
        load(tmp_path / "v3.pth")


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_s_code_is_not_run(tmp_path: Path) -> None:
    torch.save(official_layout(random_model("dino")) | {"x": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pth")
    with pytest.raises(UserError, match=r"bomb\.pth: holds more than tensors .* and is not opened"):
        load(tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()
