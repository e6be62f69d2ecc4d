"""A method, an evaluation and a kind of source that the package does not know, each from one file, through everything that it does."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import dinolab
from dinolab.cli import main
from dinolab.data.sources.kinds import KINDS
from dinolab.errors import UserError
from dinolab.evals import EVALS
from dinolab.methods import METHODS
from dinolab.rundir import RunFolder
from dinolab.runs.run import Run
from dinolab.training import checkpoint
from dinolab.training.loop import Interrupted
from tests.processes import launch
from tests.toy import evaluation, method, source

WORDS = [
    "method=toy", "data.path=toy:16", "model.dim=16", "model.depth=2", "model.heads=2", "model.patch_size=4", "optim.name=sgd",
    "views.global_size=16", "views.locals=0", "optim.batch_size=8", "optim.length=12 steps", "optim.warmup=3 steps",
    "optim.lr=0.05", "optim.lr_scaling=none", "run.save_every=4 steps", "run.log_every=2", "run.workers=0", "run.device=cpu",
    "eval.every=6 steps", "run.precision=fp32",  # the same on CPUs with and without bf16
]  # fmt: skip


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "toy", method.TOY)
    monkeypatch.setitem(EVALS, "toy", evaluation.TOY)
    monkeypatch.setitem(KINDS, "toy", source.TOY)


def train(run: Path, *more: str) -> RunFolder:
    return RunFolder(dinolab.train(None, *WORDS, f"run.dir={run}", *more))


def assert_same(a: RunFolder, b: RunFolder, tolerance: float = 0.0) -> None:
    theirs = load_file(b.weights)
    for name, tensor in load_file(a.weights).items():
        torch.testing.assert_close(
            tensor, theirs[name], atol=tolerance, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_it_trains_and_learns(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "run.pictures=true")
    rows, problems = run.read_metrics()
    losses = [row["label"] for row in rows if "label" in row]
    assert not problems and losses[-1] < losses[0]
    last = [row for row in rows if "queue_length" in row][-1]
    assert (last["queue_length"], last["epochs_begun"]) == (12 * 8, 6)
    assert "colour_weight" in last and run.curves.is_file()
    assert any("knn" in row for row in rows)  # the toy's source has labels
    assert dinolab.load(run.path).dim == 16


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole", "run.pictures=false")
    logged = Run.log_step

    def log_step(self: Run, line: dict, *args: object) -> None:
        logged(self, line, *args)
        if line["step"] == 6:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log_step", log_step)
        with pytest.raises(Interrupted):
            train(tmp_path / "parts", "run.pictures=false")
    parts = train(tmp_path / "parts", "run.pictures=false")
    assert_same(whole, parts)
    states = []
    for run in (whole, parts):  # the queue and the counts, too
        dcp_to_torch_save(checkpoint.checkpoints(run.checkpoints)[-1], tmp_path / "state.pt")
        states.append(torch.load(tmp_path / "state.pt")["method"])
    assert states[0].keys() == states[1].keys() and {"queue", "counts"} <= states[0].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    one = train(tmp_path / "one", "run.pictures=false")
    words = [*WORDS, f"run.dir={tmp_path / 'two'}", "run.pictures=false"]
    assert [p.wait(timeout=300) for p in launch(2, ["-m", "tests.toy", "train", *words])] == [0, 0]
    assert_same(one, RunFolder(tmp_path / "two"), tolerance=1e-5)


def test_plan_evaluations_and_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = train(tmp_path / "run", "run.pictures=false")
    assert main(["plan", *WORDS, f"run.dir={tmp_path / 'other'}", "steps=2"]) == 0
    assert "toy" in capsys.readouterr().out
    given = [str(run.path), "train=toy:12", "test=toy:16", "device=cpu", "workers=0", "cache=none"]
    assert main(["eval", "toy", *given]) == 0
    assert main(["eval", "all", *given, "evaluations=toy,knn", "against=pixels"]) == 0
    table = capsys.readouterr().out
    assert evaluation.TOY.title in table or "toy" in table
    result = json.loads((run.evaluations / "toy" / "result.json").read_text())
    assert result["evaluation"] == "toy" and list(result["figures"]) == [
        figure.key for figure in evaluation.TOY.FIGURES
    ]
    assert main(["report", str(run.path)]) == 0
    page = run.report.read_text()
    assert evaluation.TOY.title in page and "loss of the toy" in page and "length of the queue" in page
    assert main(["eval", "toy", "--help"]) == 0 and main(["train", "method=toy", "--help", "colours"]) == 0
    assert "colours.queue" in capsys.readouterr().out


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"colours\.queue: must hold a batch"):
        train(tmp_path / "run", "colours.queue=3")
    with pytest.raises(UserError, match=r"colours\.weight=11\.0: out of range, 0 to 10"):
        train(tmp_path / "run", "colours.weight=11")
    with pytest.raises(UserError, match="has no labels, and method=toy needs them"):
        train(tmp_path / "run", f"data.path={unlabelled(tmp_path)}")


def unlabelled(folder: Path) -> Path:
    from tests.pictures import make_folder

    return make_folder(folder / "images", per_class=2) / "class0"
