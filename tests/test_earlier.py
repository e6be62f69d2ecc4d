"""What an earlier version left on users' disks: its runs are resumed, evaluated and reported on; its results and job files are read.

fixtures/earlier.tar.xz was written by version 0.1 as it was before methods and evaluations had options of their own: three runs of
twelve steps (DINO, DINOv2, distillation) with their checkpoint at step 6, their images, and all evaluations of one of them.
"""

import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dinolab
from dinolab.cli import main
from dinolab.errors import UserError
from dinolab.evals import EVALS
from dinolab.evals.earlier import read_result
from dinolab.recipes import load_saved_config
from dinolab.rundir import RunFolder
from dinolab.training import checkpoint

RUNS = ("dino", "dinov2", "distill")
THEIRS = ("linear", "knn", "logreg", "linear-dino", "finetune")  # evaluations that the version before had


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(Path(__file__).parent / "fixtures" / "earlier.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder / "earlier"


@pytest.fixture
def earlier(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = shutil.copytree(unpacked, tmp_path / "earlier")
    monkeypatch.chdir(copy)  # the runs name their images "images"
    return copy


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_to_the_weights_that_it_had(name: str, earlier: Path) -> None:
    run = RunFolder(earlier / name)
    finished = load_file(run.weights)
    assert [checkpoint.step_of(place) for place in checkpoint.checkpoints(run.checkpoints)] == [6]
    words = ["run.pictures=false", "run.device=cpu"]
    dinolab.train(load_saved_config(run.config, [*words, f"run.dir={run.path}"]), resume=True)
    assert checkpoint.step_of(checkpoint.checkpoints(run.checkpoints)[-1]) == 12
    for key, tensor in load_file(run.weights).items():  # another CPU may round otherwise
        torch.testing.assert_close(tensor, finished[key], atol=1e-5, rtol=1e-4)
    rows, problems = run.read_metrics()
    assert not problems and rows[-1]["step"] == 12 and "knn" in rows[-1]


def test_other_options_are_still_refused(earlier: Path) -> None:
    cfg = load_saved_config(earlier / "dino" / "config.yaml", ["optim.lr=0.3", f"run.dir={earlier / 'dino'}"])
    with pytest.raises(UserError, match=r"holds a run with other options: optim\.lr=0\.3 \(was .*init\.weights="):
        dinolab.train(cfg, resume=True)


def test_its_options_are_those_of_its_method(earlier: Path) -> None:
    dino, dinov2, distill = (load_saved_config(earlier / name / "config.yaml") for name in RUNS)
    assert not hasattr(dino, "masks") and not hasattr(dino, "teacher") and dinov2.masks.share == 0.5
    assert dino.model.drop_path_rates == "rounded"
    assert distill.teacher == "dinov2" and dinov2.loss.freeze_prototypes == "1 steps"


@pytest.mark.parametrize("name", THEIRS)
def test_results_are_read(name: str, unpacked: Path) -> None:
    result = read_result(unpacked / "dinov2" / "eval" / name / "result.json")
    assert result.evaluation == name and result.main is not None
    assert 0 <= result.main.value <= 1 and result.data["test_images"] == 4


def test_the_network_is_evaluated_and_the_report_shows_all_results(earlier: Path) -> None:
    run = RunFolder(earlier / "dinov2")
    given = ["train=images", "test=images", "cache=none", "workers=0", f"out={earlier / 'now'}"]
    assert main(["eval", "knn", str(run.path), *given]) == 0
    assert dinolab.load(run.path).pixels.channels == 3
    assert dinolab.load(checkpoint.checkpoints(run.checkpoints)[-1]).dim == 16
    assert main(["report", str(run.path)]) == 0
    page = run.report.read_text()
    assert all(EVALS[name].title in page for name in THEIRS)
