"""Distillation from whole images, and regression of features: formulas in float64, kept features, processes, resuming."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import dinolab
from dinolab import options
from dinolab.data.crops import draw_crops, places
from dinolab.errors import UserError
from dinolab.methods import distill, whole
from dinolab.methods.whole import at_places
from dinolab.models.encoder import Features, normalise
from dinolab.recipes import load_config
from dinolab.runs.run import Run
from dinolab.training.loop import Interrupted
from dinolab.training.phases import Phase
from dinolab.weights.load import load
from tests.methods.test_dino import build, config, make_views
from tests.methods.test_distill import encoder
from tests.pictures import TINY, make_folder
from tests.processes import launch

SIZE = 64  # of the whole images: the smallest whose views are cut out of their images
ALL = ["loss.features=2", "loss.patches=0.5", "loss.dino=0.7", "loss.ibot=0.3", "loss.koleo=0"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("teacher"), patch_size=8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures"), side=40)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "FOLDER", str(tmp_path_factory.mktemp("cache")))


def train(teacher: Path, pictures: Path, folder: Path, *words: str) -> list[float]:
    """Trains on whole images, and returns the losses."""
    dinolab.train(load_config(None, training(teacher, pictures, folder, *words)))
    return losses(folder)


def training(teacher: Path, pictures: Path, folder: Path, *words: str) -> list[str]:
    fixed = [
        "method=distill",
        "model.drop_path=0",
        "teacher_views=whole",
        f"teacher_size={SIZE}",
        "eval.every=0 steps",
        "run.log_every=1",
    ]
    return [*TINY, *fixed, *ALL, f"teacher={teacher}", f"data.path={pictures}", f"run.dir={folder}", *words]


def losses(folder: Path) -> list[float]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("mirror", ["false", "true"])
def test_kept_features_give_the_losses_of_computed_ones(
    mirror: str, teacher: Path, pictures: Path, tmp_path: Path
) -> None:
    same = f"whole.mirror={mirror}"
    computed = train(teacher, pictures, tmp_path / "no", same, "whole.keep=no")
    kept = train(teacher, pictures, tmp_path / "disk", same)
    assert len(kept) == 12 and kept == pytest.approx(computed, abs=2e-3)  # patches are kept in half precision
    again = train(teacher, pictures, tmp_path / "again", same)  # from the disk
    assert again == kept


def test_resumed_equals_uninterrupted(
    teacher: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "whole.keep=memory", "highres.length=4 steps", "highres.global_size=24"
    train(teacher, pictures, tmp_path / "all", *words)
    cfg = load_config(None, training(teacher, pictures, tmp_path / "parts", *words))
    logged = Run.log_step

    def log_step(self: Run, line: dict, *rest) -> None:
        logged(self, line, *rest)
        if line["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log_step", log_step)
        with pytest.raises(Interrupted):
            dinolab.train(cfg)
    dinolab.train(cfg, resume=True)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("all", "parts"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_two_processes_train_as_one(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    one = train(teacher, pictures, tmp_path / "one", "whole.keep=memory")
    words = training(teacher, pictures, tmp_path / "two", "whole.keep=memory")
    assert [p.wait(100) for p in launch(2, ["-m", "dinolab", "train", *words])] == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(one, rel=1e-4)


def test_maps_are_resampled_where_the_crops_lie() -> None:
    """A map that holds the position of its cells in the image, which is linear, gives the positions of the crops' patches."""
    height, width, n, cells = 300, 400, 4, 8
    side = min(height, width) / whole.eval_margin(SIZE)  # of the view, in the image's pixels
    y, x = ((np.arange(cells) + 0.5) / cells * side + (length - side) / 2 for length in (height, width))
    maps = torch.tensor(np.stack(np.meshgrid(y, x, indexing="ij"), -1))[None].repeat(3, 1, 1, 1)
    views = options.Views(locals=0, global_scale=[0.1, 0.6])
    crops = [draw_crops(height, width, views, np.random.default_rng(i)) for i in range(3)]
    found, inside = at_places(maps, torch.tensor(np.stack([places(c) for c in crops], 1)), n, SIZE)
    assert found.shape == (6, n, n, 2) and 0.3 < inside.double().mean() < 1
    checked = mirrored = 0
    for v in range(2):
        for b, crop in enumerate(crops):
            top, left, h, w = crop.boxes[v]
            for i in range(n):
                for j in range(n):
                    across = n - 1 - j if crop.flip[v] else j
                    at = np.array([top + h * (i + 0.5) / n, left + w * (across + 0.5) / n])
                    far = np.abs(at - [height / 2, width / 2]).max()
                    assert inside[v * 3 + b, i, j] == (far <= side / 2)
                    if far < side * (cells - 1) / cells / 2:  # between the centres of cells
                        np.testing.assert_allclose(found[v * 3 + b, i, j], at, atol=1e-3)
                        checked, mirrored = checked + 1, mirrored + crop.flip[v]
    assert checked > 20 and 0 < mirrored < checked


@pytest.mark.parametrize("teacher_views", ["crops", "whole"])
def test_regressions_and_their_sum_with_the_rest(teacher_views: str, teacher: Path) -> None:
    how = [f"teacher_views={teacher_views}", *ALL, "loss.dino=0", "loss.ibot=0", "regression.hidden=12"]
    if teacher_views == "whole":
        how += [f"teacher_size={SIZE}", "whole.keep=no"]
    cfg = config("method=distill", f"teacher={teacher}", *how)
    method = build(cfg)
    made = make_views(cfg, 3)
    at = torch.rand(4, 5, 5) * torch.tensor([0.6, 0.6, 0.5, 0.5, 1]) - torch.tensor([0.1, 0.1, -0.1, -0.1, 0])
    views = made._replace(extra=torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8), places=at)
    method.see_images(range(4), 0)  # its length alone counts
    method.prepare([[views]])
    s = Phase(cfg, 20)(0)
    (targets,) = method.targets([views], s)
    loss, logs = method.loss(views, targets, s)

    said = load(teacher).double()(views.extra if teacher_views == "whole" else views.global_crops.flatten(0, 1))
    if teacher_views == "whole":
        cls = [said.cls] * 5
        patches, inside = at_places(said.patches, at[:, :2].transpose(0, 1), 4, SIZE)
    else:
        cls = list(said.cls.chunk(2))
        cls += [None] * 3  # local crops are compared with both
        patches = F.interpolate(said.patches.movedim(-1, 1), (4, 4), mode="bilinear").movedim(1, -1)
        inside = torch.ones(8, 4, 4)
    mean, student = said.cls.mean(0), method.student
    torch.testing.assert_close(method.cls_centred.mean, mean)

    def off(head: str, x: torch.Tensor, target: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return 1 - F.cosine_similarity(student[head](x), target - mean, dim=0)

    of_crops = []
    for v, crop in enumerate([*views.global_crops, *views.local_crops]):
        seen = student["backbone"]([normalise(crop).double()])[0]
        for b in range(4):
            aims = [cls[v][b]] if cls[v] is not None else [cls[0][b], cls[1][b]]
            of_crops.append(sum(off("feature_head", seen.cls[b], aim, mean) for aim in aims) / len(aims))
    seen = student["backbone"]([normalise(views.global_crops.flatten(0, 1)).double()])[0].patches
    of_patches = [
        off("patch_feature_head", seen[c, i, j], patches[c, i, j], method.patches_centred.mean) * inside[c, i, j]
        for c in range(8) for i in range(4) for j in range(4)
    ]  # fmt: skip
    assert logs["features"].item() == pytest.approx(sum(of_crops).item() / 20)
    assert logs["patches"].item() == pytest.approx(sum(of_patches).item() / 128)
    assert loss.item() == pytest.approx(2 * logs["features"].item() + 0.5 * logs["patches"].item())
    assert set(logs) == {"loss", "features", "patches", "koleo"} and not method.figures([targets], {})
    loss.backward()
    assert all(p.grad is not None for name, p in student.named_parameters() if "mask_token" not in name)
    assert "head" not in student  # without loss.dino there are no prototypes to train


def test_whole_images_are_one_target_for_all_crops(teacher: Path) -> None:
    cfg = config(
        "method=distill",
        f"teacher={teacher}",
        "teacher_views=whole",
        f"teacher_size={SIZE}",
        "loss.ibot=0",
        "loss.koleo=0",
    )
    method = build(cfg)
    views, s = make_views(cfg, 3), Phase(cfg, 20)(0)
    (targets,) = method.targets([views], s)
    targets.cls_2BK = torch.rand(1, 4, 12).double().softmax(-1)
    loss, _ = method.loss(views, targets, s)
    all_crops = [views.global_crops.flatten(0, 1), views.local_crops.flatten(0, 1)]
    cls = torch.cat([method.student["backbone"]([normalise(x).double()])[0].cls for x in all_crops])
    log_p = (method.student["head"](cls) / 0.1).log_softmax(-1).unflatten(0, (5, 4))
    assert loss.item() == pytest.approx(-(targets.cls_2BK * log_p).sum(-1).mean().item())


@pytest.mark.parametrize(("words", "message"), [
    (["loss.dino=0", "loss.ibot=0"], r"loss\.dino, loss\.ibot, loss\.features and loss\.patches are all 0"),
    (["whole.mirror=true"], r"whole\.\* have no effect with teacher_views=crops; set teacher_views=whole"),
    (["teacher_views=whole", "whole.keep=no"], r"whole\.keep=no needs teacher_size"),
    (["teacher_views=whole", "teacher_size=60"], r"teacher_size=60 is not a multiple of the teacher's patch size of 8; 56 is"),
    (["teacher_views=whole", "teacher=timm:no_such_net"], r"no_such_net"),
])  # fmt: skip
def test_mistakes_are_named(words: list[str], message: str, teacher: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        build(config("method=distill", f"teacher={teacher}", *words))
    assert "\n" not in str(error.value)


def test_a_teacher_without_patches_is_refused(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load(teacher)
    without = type(
        "Without", (type(network),), {"forward": lambda self, x: drop_patches(super(type(self), self).forward(x))}
    )
    network.__class__ = without
    monkeypatch.setattr(distill, "load", lambda name: network)
    for how in ("crops", "whole"):
        with pytest.raises(UserError, match=r"has no patches: set loss\.ibot=0 and loss\.patches=0"):
            build(config("method=distill", "teacher=some", f"teacher_views={how}"))


def drop_patches(features: Features) -> Features:
    return features._replace(patches=features.patches[:, :0, :0])
