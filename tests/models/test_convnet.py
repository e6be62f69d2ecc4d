"""Convolutional networks as backbones: ResNet-50 against torchvision's; a small one where it is trained."""

import copy
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import resnet50

import dinolab
from dinolab.batch_norm import sync_batch_norm
from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.methods import METHODS
from dinolab.methods.momentum import MomentumTeacher
from dinolab.models.backbone import make_backbone
from dinolab.models.convnet import ConvNet
from dinolab.models.encoder import BackboneEncoder, evaluating, normalise
from dinolab.options import Config, Model
from dinolab.recipes import load_config
from dinolab.runs.build import build_method
from dinolab.training.optim import make_optimizer, optimizer_step
from dinolab.training.phases import Phase
from dinolab.weights.initial import start_from
from dinolab.weights.load import load, save_encoder
from tests.pictures import make_folder

CFG = Model(size="resnet50")


def torchvisions(ours: nn.Module) -> nn.Module:
    reference = resnet50()
    reference.fc = nn.Identity()
    reference.load_state_dict(ours.state_dict())
    return reference


def test_crops_of_each_size_go_through_torchvisions_network_by_themselves() -> None:
    ours = make_backbone(CFG, 64).double()  # batch norm of so few pixels makes much of rounding
    reference = torchvisions(ours).double().train()
    crops = [torch.randn(4, 3, 64, 64).double(), torch.randn(6, 3, 32, 50).double()]
    first, second = ours.train()(crops, [None, None])
    for features, images in zip((first, second), crops):  # in this order: running statistics depend on it
        torch.testing.assert_close(features.cls, reference(images), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(features.patches.mean((1, 2)), features.cls)
    assert first.patches.shape == (4, 2, 2, 2048) and second.patches.shape == (6, 1, 2, 2048)
    assert first.registers.shape == (4, 0, 2048) and (ours.dim, ours.patch_size, ours.image_size) == (2048, 32, 64)
    theirs = reference.state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-4)


def test_it_begins_as_torchvisions() -> None:
    ours, reference = make_backbone(CFG, 64).state_dict(), resnet50().state_dict()
    assert ours.keys() == {name for name in reference if not name.startswith("fc.")}
    for name, tensor in ours.items():
        if tensor.ndim < 2:
            assert torch.equal(tensor, reference[name]), name
        else:
            assert tensor.std().item() == pytest.approx(reference[name].std().item(), rel=0.1), name


def test_on_disk_it_is_ours_and_timms(tmp_path: Path) -> None:
    save_encoder(make_backbone(CFG, 64), tmp_path, {"step": 3})
    encoder, theirs = load(tmp_path), load(f"timm:resnet50={tmp_path / 'model.safetensors'}")
    assert isinstance(encoder.backbone, ConvNet) and encoder.info == {"step": 3} and encoder.image_size == 64
    images = torch.randint(0, 256, (2, 3, 70, 64), dtype=torch.uint8)
    for a, b in zip(encoder(images), theirs(images)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert encoder(images[..., :20]).patches.shape == (2, 3, 1, 2048)
    with pytest.raises(UserError, match="ResNet-50 has no class token"):
        encoder.attention(images)
    with pytest.raises(UserError, match="only its last layer has features, not the last 4"):
        encoder.layers(images, 4)
    assert not encoder.has_class_token

    official = {f"module.backbone.{k}": v for k, v in load_file(tmp_path / "model.safetensors").items()}
    torch.save({"teacher": official | {"module.head.mlp.0.bias": torch.zeros(2)}}, tmp_path / "dino_resnet50.pth")
    torch.testing.assert_close(load(tmp_path / "dino_resnet50.pth")(images).cls, encoder(images).cls)
    torch.save(resnet50().state_dict(), tmp_path / "r.pth")
    with pytest.raises(UserError, match=r"r\.pth differs from DINO's ResNet-50 .* fc\.weight is unknown"):
        load(tmp_path / "r.pth")

    fresh = make_backbone(CFG, 96)
    start_from(fresh, str(tmp_path))
    torch.testing.assert_close(BackboneEncoder(fresh.eval())(images).cls, encoder(images).cls)
    with pytest.raises(UserError, match=r"another architecture \(ResNet-50\); .* set model\.size=resnet50$"):
        start_from(make_backbone(Model(size="tiny"), 64), str(tmp_path))


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"model\.size=resnet50 needs timm: pip install 'dinolab\[timm\]'"):
        make_backbone(CFG, 64)


def test_options_of_vits_are_refused() -> None:
    for words, said in (
        (["model.heads=3", "optim.patch_embed_lr=0.9"], r"^model\.heads=3, optim\.patch_embed_lr=0\.9: for vision"),
        (["run.compile=true"], r"^run\.compile=True: for vision"),
        (["method=dinov2"], r"no mask token: .* loss\.ibot=0"),
    ):
        with pytest.raises(UserError, match=said):
            load_config(None, ["method=dino", "model.size=resnet50", *words])
    any_size = ["views.global_size=225", "views.local_size=50", "eval.size=8"]
    load_config(None, ["method=dinov2", "loss.ibot=0", "model.size=resnet50", *any_size])


@pytest.mark.usefixtures("starter_file")
def test_the_starters_weights_give_its_features(tmp_path: Path) -> None:
    """With its own mean and deviation, whatever the run's pixels; and a run's file needs no package with the weights."""
    backbone, given = make_backbone(Model(size="starter"), 96), load("starter")
    start_from(backbone, "starter")
    images = torch.randint(0, 256, (2, 3, 96, 70), dtype=torch.uint8)
    ours = BackboneEncoder(backbone.eval().requires_grad_(False))(images)
    for a, b in zip(ours, given(images)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert backbone.describe() == "EfficientNet-Lite0"

    save_encoder(backbone, tmp_path, {})
    torch.testing.assert_close(load(tmp_path)(images).cls, ours.cls, atol=1e-5, rtol=1e-5)
    same = load(f"timm:tf_efficientnet_lite0={tmp_path / 'model.safetensors'}")
    torch.testing.assert_close(same(images).cls, ours.cls, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"another architecture \(EfficientNet-Lite0\); .* set model\.size=starter$"):
        start_from(make_backbone(Model(size="resnet18"), 64), "starter")


def test_batch_norm_over_processes_keeps_the_activation_inside_timms() -> None:
    """Alone it computes what timm's does, in training and after it."""
    theirs = timm.layers.BatchNormAct2d(3).double()
    ours, images = copy.deepcopy(theirs), 2 * torch.randn(4, 3, 5, 5).double() + 1
    sync_batch_norm(ours)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(images), theirs.train(mode)(images))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert ours(images).min() == 0


def test_a_resnet_18_starts_from_a_file_for_timm(tmp_path: Path) -> None:
    network = timm.create_model("resnet18", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "r.pth")
    backbone = make_backbone(Model(size="resnet18"), 64)
    start_from(backbone, f"timm:resnet18={tmp_path / 'r.pth'}")
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(backbone.eval()([images])[0].cls, network.eval()(images))
    backbone.pixels = replace(backbone.pixels, mean=(0.5, 0.5, 0.5))
    with pytest.raises(UserError, match=r"its images have mean and deviation .*; start from other weights"):
        start_from(backbone, f"timm:resnet18={tmp_path / 'r.pth'}")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network with one block a stage, of 8 to 32 channels."""
    create = timm.create_model
    shape = {"layers": (1, 1, 1, 1), "channels": (8, 16, 16, 32)}
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: create(*args, **shape, **options))


def config(*words: str) -> Config:
    return load_config("dino_resnet50", [
        "views.global_size=64", "views.local_size=32", "views.locals=2", "head.hidden=24", "head.bottleneck=8",
        "head.prototypes=12", "optim.batch_size=4", "optim.length=6 steps", "optim.warmup=2 steps", "optim.lr=1.0",
        "loss.freeze_prototypes=1 steps", "ema.start=0.9", *words,
    ])  # fmt: skip


def make_views(step: int) -> Views:
    g = torch.Generator().manual_seed(step)
    globals_, locals_ = (
        torch.randint(0, 256, (n, 4, 3, side, side), generator=g, dtype=torch.uint8) for n, side in ((2, 64), (2, 32))
    )
    return Views(globals_, locals_, None, None, torch.arange(4), [])


def build(cfg: Config) -> MomentumTeacher:
    torch.manual_seed(1)
    backbone = make_backbone(cfg.model, cfg.views.global_size)
    return METHODS["dino"](backbone, cfg).train()


def step(method: MomentumTeacher, optimizer: torch.optim.Optimizer, cfg: Config, n: int) -> float:
    s, views = Phase(cfg, 24)(n), make_views(n)
    (targets,) = method.targets([views], s)
    loss, _ = method.loss(views, targets, s)
    loss.backward()
    optimizer_step(optimizer, method.student, s, cfg.optim)
    method.after_step(s)
    return loss.item()


def statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


@pytest.mark.usefixtures("small")
def test_the_teacher_normalises_with_its_own_batches_statistics() -> None:
    cfg = config()
    method = build(cfg)
    teacher, images = method.teacher["backbone"], normalise(make_views(0).global_crops.flatten(0, 1))
    x = teacher.conv1(images)
    expected = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(teacher.bn1(x), expected, atol=1e-4, rtol=1e-4)

    method, before = build(cfg), statistics(build(cfg).teacher)
    optimizer = make_optimizer(method.student, cfg.optim)
    torch.testing.assert_close(statistics(method.teacher), before)
    step(method, optimizer, cfg, 0)
    after = statistics(method.teacher)
    assert all(not torch.equal(after[name], before[name]) for name in before)
    mean = (0.9 * before["backbone.bn1.running_mean"]) + 0.1 * x.mean((0, 2, 3))
    torch.testing.assert_close(after["backbone.bn1.running_mean"], mean)

    with evaluating(encoder := BackboneEncoder(method.product)):  # which uses the running statistics, and leaves them
        seen = encoder(make_views(0).global_crops[0])
    torch.testing.assert_close(statistics(method.teacher), after, atol=0, rtol=0)
    method.eval()
    torch.testing.assert_close(method.product([images[:4]])[0].cls, seen.cls, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(method.train().product([images[:4]])[0].cls, seen.cls, atol=1e-3)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_of_given_weights_is_held_fixed(frozen: bool, tmp_path: Path) -> None:
    """Statistics, scales and shifts, of student and teacher; the convolutions and the head are trained."""
    save_encoder(make_backbone(CFG, 64), tmp_path, {})
    cfg = config(f"init.weights={tmp_path}", "init.freeze_backbone=0 steps", f"init.freeze_norms={frozen}")
    method = build_method(cfg, torch.device("cpu")).train()
    optimizer, before = make_optimizer(method.student, cfg.optim), copy.deepcopy(method.state_dict())
    for n in range(2):
        step(method, optimizer, cfg, n)
    moved = {name for name, x in method.state_dict().items() if not torch.equal(x, before[name])}
    norms = {name for name in before if "backbone" in name and ("bn" in name or "downsample.1" in name)}
    assert moved & norms == (set() if frozen else norms)
    assert {"student.backbone.conv1.weight", "teacher.backbone.layer4.0.conv3.weight"} <= moved
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        trained, evaluated = method.train().product([images])[0].cls, method.eval().product([images])[0].cls
    assert torch.equal(trained, evaluated) == frozen


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_run_evaluates_resumes_and_is_opened(tmp_path: Path) -> None:
    pictures = make_folder(tmp_path / "pictures", per_class=8, side=64)
    words = ["run.workers=0", "run.device=cpu", "run.save_every=3 steps", "eval.every=3 steps", "run.log_every=1"]
    cfg = config(f"data.path={pictures}", f"run.dir={tmp_path / 'run'}", *words)
    run = dinolab.train(cfg)
    whole, lines = load_file(run / "model.safetensors"), (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if "knn" in line] == [0, 3, 6]
    assert (run / "pca.png").is_file() and not (run / "attention.png").exists()
    assert dinolab.load(run)(torch.rand(1, 3, 64, 64)).cls.shape == (1, 128)

    shutil.rmtree(run / "checkpoints" / "step_00000006")
    dinolab.train(cfg, resume=True)
    for name, tensor in load_file(run / "model.safetensors").items():
        assert torch.equal(tensor, whole[name]), name
