"""Distillation from whole images, and regression of features: formulas in float64, kept features, processes, resuming."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dinolab
from dinolab.methods import whole
from dinolab.recipes import load_config
from dinolab.runs.run import Run
from dinolab.training.loop import Interrupted
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
        f"whole.size={SIZE}",
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

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Run, "log_step", log_step)
        dinolab.train(cfg)
    dinolab.train(cfg, resume=True)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("all", "parts"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_two_processes_train_as_one(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    one = train(teacher, pictures, tmp_path / "one", "whole.keep=memory")
    words = training(teacher, pictures, tmp_path / "two", "whole.keep=memory")
    assert [p.wait(100) for p in launch(2, ["-m", "dinolab", "train", *words])] == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(one, rel=1e-4)
