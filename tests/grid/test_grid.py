"""Grids: the runs as processes, stopped and failing ones, and forecasts."""

import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from dinolab.cli import main
from dinolab.errors import UserError
from dinolab.grid import forecast, lengths, run
from dinolab.grid.read import read_grid
from dinolab.grid.task import make_tasks
from dinolab.training import loop
from dinolab.training.loop import Interrupted
from tests.grid.parts import FAILING, ROWS, STEPS, WORDS, refused, write
from tests.pictures import make_folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    """Words that name the images."""
    folder = tmp_path_factory.mktemp("photos")
    train, test = make_folder(folder / "train", 12), make_folder(folder / "test", 6, seed=1)
    return [f"data.path={train}", f"eval.test={test}"]


@pytest.mark.slow
def test_runs_beside_each_other_and_a_row_that_fails(tmp_path, photos, monkeypatch, capsys):
    file, out = write(tmp_path, ROWS.replace("  no crops", "  few crops") + FAILING), tmp_path / "out"
    words = ["grid", file, *photos, *WORDS, f"out={out}", "seeds=1", "jobs=2", "plan=no"]
    assert main(words) == 1
    said, wrong = capsys.readouterr()
    assert (
        "mine (no recipe: options that are not given have their defaults): 3 rows x 1 seed; 3 of 3 runs to do" in said
    )
    assert wrong.splitlines()[-1].startswith("dinolab: 1 of 3 runs failed: lost, seed 0. The table says why")
    plain, few, lost = json.loads((out / "grid.json").read_text())["rows"]
    for row in (plain, few):
        assert list(row["results"]["knn"]["values"]) == ["0"]
        assert (row["steps"], row["images"]) == (STEPS, 8 * STEPS)
        assert row["images_per_s"] > 0 and row["cpu_seconds"] > 0
    assert lost["results"]["knn"]["mean"] is None
    assert "nowhere.pth" in lost["remarks"][0] and lost["remarks"][0].startswith("failed: ")
    assert "| lost |" in (out / "grid.md").read_text()

    started = []
    monkeypatch.setattr(
        run, "start", lambda task, *_: started.append(task.name) or subprocess.Popen([sys.executable, "-c", ""])
    )
    before = (out / "grid.md").read_text()
    assert main(words) == 1
    assert "1 of 3 runs failed" in capsys.readouterr().err
    assert started == ["lost, seed 0"]  # what is finished is not repeated
    assert (out / "grid.md").read_text() == before
    assert "holds a run with other options: optim.lr=0.3 (was 0.0005)" in refused([*words, "optim.lr=0.3"], capsys)


def test_a_stopped_run_goes_on(tmp_path, photos, monkeypatch):
    steps, train_step = [], loop.train_step

    def stop_at_the_fifth(*args):
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*args)

    monkeypatch.setattr(loop, "train_step", stop_at_the_fifth)
    file, words = write(tmp_path), [*photos, *WORDS]
    with pytest.raises(Interrupted):
        run.run_grid(file, words, out=tmp_path / "out", seeds=1, task=1)
    assert "not finished" in (tmp_path / "out" / "grid.md").read_text()
    run.run_grid(file, words, out=tmp_path / "out", seeds=1, task=1)
    assert len(steps) == STEPS
    (task, other) = make_tasks(read_grid(file), words, "", 1, tmp_path / "out")
    assert task.is_done() and not other.is_done()
    assert task.read_record().steps == STEPS
    moved = make_tasks(read_grid(file), [photos[0], *WORDS, f"eval.test={photos[0][10:]}"], "", 1, tmp_path / "out")
    assert not moved[0].is_done()  # its figures are of other test images


def test_a_process_that_dies_is_a_failure(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(run, "start", lambda *_: subprocess.Popen(["sh", "-c", "kill -9 $$"]))
    found = run.run_grid(write(tmp_path), [*photos, *WORDS], out=tmp_path / "out", seeds=1, plan="no")
    assert (found.failed, found.runs) == (["plain, seed 0", "no crops, seed 0"], 2)
    assert "failed: the process ended early (SIGKILL)" in found.tables[0].read_text()


def test_a_forecast_that_is_stopped_leaves_nothing(tmp_path, photos, monkeypatch):
    """SIGTERM would otherwise end the process at once, with the folder of its trial checkpoint there."""

    def stop(*_):
        assert list(tmp_path.rglob("dinolab-plan-*"))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("dinolab.plan.forecast.measure", stop)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        run.run_grid(write(tmp_path), [*photos, *WORDS], out=tmp_path / "out", seeds=1)
    assert not list(tmp_path.rglob("dinolab-plan-*"))
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_stops_all_runs(tmp_path, photos, monkeypatch):
    processes = []

    def start(*_):
        processes.append(subprocess.Popen(["sleep", "60"]))
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
        return processes[-1]

    monkeypatch.setattr(run, "start", start)
    with pytest.raises(Interrupted):
        run.run_grid(write(tmp_path), [*photos, *WORDS], out=tmp_path / "out", seeds=1, plan="no")
    assert [process.returncode for process in processes] == [-signal.SIGTERM]


def test_rows_that_are_alike_are_timed_once(tmp_path, monkeypatch):
    rows = "  other rate: [optim.lr=0.1]\n  nothing: [init.weights=nowhere.pth]\n  again: []\n"
    tasks = make_tasks(read_grid(write(tmp_path, ROWS + rows)), [*WORDS, "data.path=train"], "", 2, tmp_path)

    def plan(cfg, steps):
        if cfg.init.weights:
            raise UserError("no such file")
        return type("Plan", (), {"total_seconds": 60.0 if cfg.views.locals else 30.0})

    monkeypatch.setattr(forecast, "plan", plan)
    said: list[str] = []
    seconds = forecast.forecast(tasks, said.append)
    assert seconds == {"plain": 60.0, "no crops": 30.0, "other rate": 60.0, "again": 60.0}
    assert said[-1] == "forecast: nothing cannot be timed: no such file"
    assert len(said) == 4
    assert "7 min 0 s of training for 10 runs" in forecast.forecast_words(tasks, seconds, 1)[0]


def test_rows_train_equally_long(tmp_path, photos, monkeypatch, capsys):
    """Steps follow from the time of one, and stay what they were; a row that cannot be timed goes on without."""

    def plan(cfg, steps):
        if cfg.init.weights:
            raise UserError("no such file")
        assert cfg.eval.train == cfg.data.path  # where only test images are named
        return SimpleNamespace(
            seconds_per_step=0.5 if cfg.views.locals else 0.25,
            evaluations=4, evaluation_seconds=2.0, checkpoints=1, checkpoint_seconds=2.0,
        )  # fmt: skip

    monkeypatch.setattr(lengths, "plan", plan)
    file, out = write(tmp_path, ROWS + FAILING), tmp_path / "out"
    words = [
        "grid",
        file,
        *photos,
        *WORDS,
        "views.locals=2",
        "views.local_size=8",
        f"out={out}",
        "seeds=1",
        "each=2min",
    ]
    assert "Give the command once with plan=only" in refused([*words, "task=1"], capsys)
    monkeypatch.setattr(forecast, "plan", lambda cfg, steps: SimpleNamespace(total_seconds=1.0))
    assert main([*words, "plan=only"]) == 0
    assert "lost cannot be timed: no such file" in capsys.readouterr().err
    assert json.loads((out / "lengths.json").read_text())["steps"] == {"plain": 220, "no crops": 440}
    monkeypatch.setattr(lengths, "plan", None)  # nothing is timed again
    grid = lengths.with_lengths(read_grid(write(tmp_path)), words[2:-3], "", "2min", out, False, print)
    assert [row.words[-1] for row in grid.rows] == ["optim.length=220 steps", "optim.length=440 steps"]
    assert "have each=2min. Give the same" in refused([*words, "each=3min"], capsys)
    assert "each=soon: not a time" in refused([*words, "each=soon"], capsys)
    nowhere = tmp_path / "nowhere"
    assert "no such file" in refused(
        [*words, f"data.path={nowhere}", f"out={nowhere}"], capsys
    )  # before rows are timed
    assert not nowhere.exists()
