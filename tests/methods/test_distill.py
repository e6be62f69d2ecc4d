"""Distillation: targets and losses against their formulas in float64, prototypes, grids, and what is not trained."""

import json
import os
import signal
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import dinolab
from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.losses import koleo
from dinolab.methods import directions, distill
from dinolab.methods.distill import Distillation, Prototypes
from dinolab.models.encoder import Features, normalise
from dinolab.models.vit import ViT
from dinolab.options import Config, Model
from dinolab.pixels import RGB
from dinolab.recipes import load_config
from dinolab.runs.run import Run
from dinolab.training.loop import Interrupted
from dinolab.training.phases import Phase
from dinolab.weights.load import load, save_encoder
from tests.methods.test_dino import build, config, make_views, run, split
from tests.pictures import TINY, make_folder
from tests.training.test_step import NoReadingBack

WIDTH = 20  # of the frozen encoder, and of nothing else


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("teacher"), patch_size=4)


def encoder(folder: Path, patch_size: int) -> Path:
    torch.manual_seed(5)
    vit = ViT(Model(dim=WIDTH, depth=1, heads=2, patch_size=patch_size, registers=1), 4 * patch_size)
    for p in vit.parameters():
        torch.nn.init.normal_(p, std=0.3)
    save_encoder(vit, folder, {})
    return folder


def ready(teacher: Path | str, *words: str) -> tuple[Config, Distillation]:
    cfg = config("method=distill", f"teacher={teacher}", *words)
    method = build(cfg)
    assert isinstance(method, Distillation)
    method.prepare([make_views(cfg, step)] for step in range(100))
    return cfg, method


def plain_sinkhorn(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    q = (logits / temperature).exp()
    for _ in range(3):
        q = q / q.sum(0) / q.shape[1]
        q = q / q.sum(1, keepdim=True) / q.shape[0]
    return q * q.shape[0]


@pytest.mark.parametrize("normalisation", ["centring", "sinkhorn"])
def test_targets_and_the_sum_of_the_loss(normalisation: str, teacher: Path) -> None:
    cfg, method = ready(teacher, f"loss.targets={normalisation}", "loss.ibot=0.7", "loss.koleo=0.3")
    views, s = make_views(cfg, 3), Phase(cfg, 20)(4)
    (made,) = method.targets([views], s)
    loss, logs = method.loss(views, made, s)

    frozen, fresh = load(teacher).double(), build(cfg)
    images = views.global_crops.flatten(0, 1)
    said = [frozen(image[None]) for image in images]
    seen = [fresh.student["backbone"]([normalise(image[None]).double()])[0] for image in images]
    local = [
        fresh.student["backbone"]([normalise(image[None]).double()])[0].cls for image in views.local_crops.flatten(0, 1)
    ]

    def distributions(rows: torch.Tensor, head: Prototypes) -> torch.Tensor:
        logits = torch.stack([F.cosine_similarity(x - head.mean, head.directions) for x in rows])
        if normalisation == "sinkhorn":
            return plain_sinkhorn(logits, s["teacher_temperature"])
        return (logits / s["teacher_temperature"]).softmax(-1)  # the centre starts at zero

    t_cls = distributions(torch.cat([f.cls for f in said]), method.cls_head).view(2, 4, 12)
    t_patch = distributions(torch.cat([f.patches.flatten(0, 2) for f in said]), method.patch_head)
    torch.testing.assert_close(made.cls_2BK, t_cls, atol=1e-6, rtol=0)
    torch.testing.assert_close(made.patches_MK, t_patch, atol=1e-6, rtol=0)

    cls = torch.cat([f.cls for f in seen] + local)
    log_q = (fresh.student["head"](cls) / 0.1).log_softmax(-1).view(5, 4, 12)
    pairs = [(t, v) for t in range(2) for v in range(5) if v != t]
    dino = sum(-(t_cls[t] * log_q[v]).sum(-1).mean() for t, v in pairs) / len(pairs)  # DINO, equation 3
    log_q = (fresh.student["ibot_head"](torch.cat([f.patches.flatten(0, 2) for f in seen])) / 0.1).log_softmax(-1)
    assert log_q.shape == (2 * 4 * 16, 10)
    ibot = -(t_patch * log_q).sum(-1).mean()
    spread = koleo(cls[:4]) + koleo(cls[4:8])
    expected = {"dino": dino, "ibot": ibot, "koleo": spread, "loss": dino + 0.7 * ibot + 0.3 * spread}
    assert {k: x.item() for k, x in logs.items()} == pytest.approx({k: x.item() for k, x in expected.items()}, rel=1e-6)
    assert loss.item() == logs["loss"].item()


def test_the_frozen_encoder_is_no_part_of_the_method(teacher: Path) -> None:
    cfg, method = ready(teacher)
    before = {name: x.clone() for name, x in method.encoder.state_dict().items()}
    names = [name for name, _ in method.named_parameters()] + list(method.state_dict())
    assert {name.split(".")[0] for name in names} == {
        "student",
        "teacher",
        "centre",
        "patch_centre",
        "cls_head",
        "patch_head",
    }
    assert all(p.shape[-1] != WIDTH for p in method.parameters())  # nor under another name
    student = [p.clone() for p in method.student.parameters()]
    run(cfg, method.train())
    assert all(p.grad is None and not p.requires_grad for p in method.encoder.parameters())
    assert not any(module.training for module in method.encoder.modules())
    assert all(torch.equal(x, before[name]) for name, x in method.encoder.state_dict().items())
    moved = [(a - b).abs().max().item() > 1e-3 for a, b in zip(student, method.student.parameters())]
    assert sum(moved) >= len(moved) - 1  # all but the mask token: nothing is masked
    assert next(method.to(torch.float32).encoder.parameters()).dtype == torch.float32  # it goes where the method goes


@pytest.mark.parametrize("normalisation", ["centring", "sinkhorn"])
def test_micro_batches_give_the_step_of_the_whole_batch(normalisation: str, teacher: Path) -> None:
    cfg, whole = ready(teacher, "loss.koleo=0", f"loss.targets={normalisation}")
    parts = build(cfg)
    assert isinstance(parts, Distillation)
    parts.prepare(split(make_views(cfg, step), 2) for step in range(100))
    torch.testing.assert_close(parts.patch_head.directions, whole.patch_head.directions, atol=1e-9, rtol=0)
    assert run(cfg, whole) == pytest.approx(run(cfg, parts, micro=2), rel=1e-9)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values()):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def test_prototypes_are_in_the_checkpoint(teacher: Path) -> None:
    cfg, method = ready(teacher)
    again = build(cfg)
    again.load_state_dict(method.state_dict())  # without prepare
    s = Phase(cfg, 20)(0)
    (a,), (b,) = (m.targets([make_views(cfg, 7)], s) for m in (method, again))
    assert torch.equal(a.cls_2BK, b.cls_2BK) and torch.equal(a.patches_MK, b.patches_MK)
    assert a.cls_2BK.std() > 0.01  # and they say something


def test_prototypes_are_spherical_k_means_of_features() -> None:
    x = torch.randn(300, 5, dtype=torch.float64) * torch.tensor([3, 2, 1, 1, 1]) + 10
    x[:4] = x.mean(0) - 100 * (x[5] - x.mean(0))  # some that no other feature is near to
    head = Prototypes(5, 40).double()
    head.fit(x, torch.Generator().manual_seed(0), "head.prototypes")

    rows = x - x.mean(0)
    rows = rows / rows.norm(dim=1, keepdim=True)
    found = [rows[i] for i in torch.randperm(300, generator=torch.Generator().manual_seed(0))[:40]]
    for _ in range(directions.ROUNDS):
        own = [max(range(40), key=lambda k: float(row @ found[k])) for row in rows]
        for k in range(40):
            if members := [row for row, of in zip(rows, own) if of == k]:
                total = torch.stack(members).sum(0)
                found[k] = total / total.norm()
    torch.testing.assert_close(head.mean, x.mean(0))
    torch.testing.assert_close(head.directions, torch.stack(found), atol=1e-9, rtol=0)
    cosines = torch.stack([F.cosine_similarity(row - x.mean(0), head.directions) for row in x])
    torch.testing.assert_close(head(x), cosines, atol=1e-9, rtol=0)


def test_prototypes_take_class_tokens_and_patches_of_the_first_batches(teacher: Path) -> None:
    cfg, method = ready(teacher, "ibot_head.prototypes=20")
    globals_ = torch.cat([make_views(cfg, step).global_crops.flatten(0, 1) for step in range(24)])  # 16 x 12 crops
    said = load(teacher).double()(globals_)
    torch.testing.assert_close(method.cls_head.mean, said.cls.mean(0), atol=1e-9, rtol=0)
    patches = said.patches.flatten(0, 2)
    spread = patches.std(0).norm()
    assert (method.patch_head.mean - patches.mean(0)).norm() < 0.2 * spread  # of 384 of them, drawn at random
    for head in (method.cls_head, method.patch_head):
        torch.testing.assert_close(head.directions.norm(dim=1), torch.ones(len(head.directions)).double())
        assert head.directions.unique(dim=0).shape == head.directions.shape


class MeanColours:
    """An encoder whose patches are their own mean colours."""

    pixels = RGB

    def __init__(self, patch_size: int):
        self.patch_size, self.sizes = patch_size, []

    def __call__(self, images: torch.Tensor) -> Features:
        x = images.double() / 255 if images.dtype == torch.uint8 else images
        self.sizes.append(images.shape[-1])
        cls = x.mean((2, 3))
        return Features(cls, cls[:, None, :][:, :0], F.avg_pool2d(x, self.patch_size).permute(0, 2, 3, 1))

    def _apply(self, fn) -> None: ...


@pytest.mark.parametrize(("patch_size", "seen_at"), [(4, 16), (2, 16), (1, 16), (8, 32), (3, 12), (5, 20), (7, 28)])
def test_patches_of_any_size_lie_on_the_students_grid(
    patch_size: int, seen_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours = MeanColours(patch_size)
    monkeypatch.setattr(distill, "load", lambda name: colours)
    method = build(config("method=distill", "teacher=colours"))
    assert isinstance(method, Distillation)
    squares = torch.randint(60, 200, (2, 3, 3, 4, 4), dtype=torch.uint8)  # one colour for each of the student's patches
    crops = squares.repeat_interleave(4, 3).repeat_interleave(4, 4)
    said = method.sees.features(crops).patches
    assert colours.sizes[-1] == seen_at
    expected = squares.flatten(0, 1).permute(0, 2, 3, 1) / 255
    # resizing overshoots at the edges, but a patch that is off by one would be off by 0.2 on average
    torch.testing.assert_close(said.float(), expected, atol=0.06 if seen_at != 16 else 1e-6, rtol=0)


def test_without_patches_crops_stay_as_they_are_and_a_resnet_will_do(tmp_path: Path) -> None:
    resnet = timm.create_model("test_resnet", num_classes=0)
    save_file(resnet.state_dict(), tmp_path / "resnet.safetensors")
    name = f"timm:test_resnet={tmp_path / 'resnet.safetensors'}"
    cfg, method = ready(name, "loss.ibot=0", "views.global_size=32")
    assert "patch_head.mean" not in method.state_dict()
    views, s = make_views(cfg, 0), Phase(cfg, 20)(0)
    (made,) = method.targets([views], s)
    said = load(name).double()(views.global_crops.flatten(0, 1)).cls
    logits = F.normalize(said - method.cls_head.mean, dim=-1) @ method.cls_head.directions.T
    torch.testing.assert_close(made.cls_2BK.flatten(0, 1), (logits / s["teacher_temperature"]).softmax(-1))
    loss, logs = method.loss(views, made, s)
    loss.backward()
    assert set(logs) == {"loss", "dino", "koleo"} and loss.isfinite()


def test_a_resnets_feature_map_is_compared_patch_by_patch(tmp_path: Path) -> None:
    resnet = timm.create_model("test_resnet", num_classes=0)
    save_file(resnet.state_dict(), tmp_path / "resnet.safetensors")
    cfg = config("method=distill", f"teacher=timm:test_resnet={tmp_path / 'resnet.safetensors'}")
    method = build(cfg)
    assert isinstance(method, Distillation)
    assert method.sees.features(make_views(cfg, 0).global_crops).patches.shape == (
        8,
        4,
        4,
        resnet.num_features,
    )  # of 128 x 128 pixels


@pytest.mark.parametrize("words", [(), ("loss.ibot=0", "loss.targets=centring")], ids=" ".join)
def test_a_step_reads_nothing_back(words: tuple[str, ...], tmp_path: Path) -> None:
    cfg, method = ready(encoder(tmp_path, patch_size=2), *words)
    s = Phase(cfg, 20)(0)

    def step(views: Views) -> None:
        (made,) = method.targets([views], s)
        method.loss(views, made, s)[0].backward()

    first, second = make_views(cfg, 0), make_views(cfg, 1)
    step(first)  # constants are made and kept
    with NoReadingBack():
        step(second)


def test_the_product_of_a_convolutional_student_has_its_statistics_of_batch_norm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distill, "load", lambda name: MeanColours(8))
    sizes = ("model.dim=0", "model.depth=0", "model.heads=0", "model.patch_size=16", "model.layerscale=0")
    cfg = config(
        "method=distill", "teacher=colours", "model.size=resnet18", *sizes, "loss.dino=0", "loss.ibot=0",
        "loss.features=1", "loss.patches=1", "teacher_size=32", "views.global_size=64", "views.local_size=32",
    )  # fmt: skip
    method = build(cfg)
    before = method.product.bn1.running_mean.clone()
    method.prepare([make_views(cfg, 0)] for _ in range(9))
    assert all(loss > 0 for loss in run(cfg, method))
    found = [network["backbone"].bn1.running_mean for network in (method.student, method.teacher)]
    assert torch.equal(*found) and not torch.equal(found[0], before)


def test_maps_of_another_grid_are_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "load", lambda name: MeanColours(8))
    method = build(config("method=distill", "teacher=colours", "loss.ibot=0", "loss.patches=1"))
    crops = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    said = method.sees.features(crops).patches
    expected = F.interpolate(F.avg_pool2d(crops.flatten(0, 1).double() / 255, 8), (4, 4), mode="bilinear")
    torch.testing.assert_close(said, expected.movedim(1, -1))  # the crops are seen as they are


@pytest.mark.parametrize(("words", "message"), [
    (["method=dinov2", "teacher=runs/large"], r"teacher=runs/large: method=dinov2 has no such option; it belongs to distill$"),
    (["method=distill", "teacher=runs/large", "model.drop_path=0.1"], r"model\.drop_path=0\.1: .*set it to 0"),
    (["method=distill", "teacher=runs/large", "optim.batch_size=1"], r"optim\.batch_size=1: KoLeo"),
])  # fmt: skip
def test_options_that_do_not_go_together(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(None, words)


def test_mistakes_with_the_teacher_are_named(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"teacher is not set: .*teacher=RUN"):
        build(config("method=distill"))
    with pytest.raises(UserError, match=r"nothing: no model\.json there"):
        build(config("method=distill", f"teacher={tmp_path / 'nothing'}"))
    cfg = config("method=distill", f"teacher={teacher}", "head.prototypes=50")
    with pytest.raises(UserError, match=r"head\.prototypes=50, but the whole run has only 40 features"):
        build(cfg).prepare([make_views(cfg, step)] for step in range(5))


def test_interrupted_and_resumed_equals_uninterrupted(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = make_folder(tmp_path / "pictures")
    words = [
        *TINY,
        "method=distill",
        "model.drop_path=0",
        f"teacher={teacher}",
        f"data.path={pictures}",
        "eval.every=0 steps",
    ]
    prepare, prepared = Distillation.prepare, []
    monkeypatch.setattr(Distillation, "prepare", lambda self, x: prepared.append(1) or prepare(self, x))
    whole = dinolab.train(load_config(None, [*words, f"run.dir={tmp_path / 'whole'}"]))
    cfg = load_config(None, [*words, f"run.dir={tmp_path / 'parts'}"])
    logged = Run.log_step

    def log_step(self: Run, line: dict, *rest) -> None:
        logged(self, line, *rest)
        if line["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log_step", log_step)
        with pytest.raises(Interrupted):
            dinolab.train(cfg)
    parts = dinolab.train(cfg, resume=True)
    assert len(prepared) == 2  # not when it was resumed: prototypes come from the checkpoint
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    logged_keys = set().union(*map(json.loads, (parts / "metrics.jsonl").read_text().splitlines()))
    assert "prototypes_used" in logged_keys and "effective_rank" not in logged_keys  # it would be the frozen encoder's
    assert load(parts).dim == 16  # the product is the student's kind, not the teacher's
