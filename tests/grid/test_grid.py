"""Grids: the runs as processes, stopped and failing ones, the table of planted results, and mistakes."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dinolab.cli import main
from dinolab.errors import UserError
from dinolab.grid import findings, forecast, lengths, run
from dinolab.grid.read import read_grid, shipped
from dinolab.grid.table import result_table, write_tables
from dinolab.grid.task import Record, make_tasks
from dinolab.training import loop
from dinolab.training.loop import Interrupted
from tests.pictures import TINY, fit_words, make_folder

STEPS = 12  # of TINY
WORDS = fit_words(["method=dino", *TINY])
ROWS = """
evaluations: [knn]
published: ablations
rows:
  plain: {published: {row: 1}}
  no crops: {words: [views.locals=0], published: {row: 4}}
"""
FAILING = "  lost: [init.weights=nowhere.pth]\n"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    """Words that name the images."""
    folder = tmp_path_factory.mktemp("photos")
    train, test = make_folder(folder / "train", 12), make_folder(folder / "test", 6, seed=1)
    return [f"data.path={train}", f"eval.test={test}"]


def write(folder: Path, text: str = ROWS) -> str:
    file = folder / "mine.yaml"
    file.write_text(text)
    return str(file)


def refused(words: list[str], capsys) -> str:
    """The one line that a command is refused with."""
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("dinolab: ")


@pytest.mark.slow
def test_runs_beside_each_other_and_a_row_that_fails(tmp_path, photos, monkeypatch, capsys):
    file, out = write(tmp_path, ROWS.replace("  no crops", "  few crops") + FAILING), tmp_path / "out"
    words = ["grid", file, *photos, *WORDS, f"out={out}", "seeds=1", "jobs=2", "plan=no"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "3 rows x 1 seeds; 3 of 3 runs to do" in said
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
    assert main(words) == 0
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
    run.run_grid(write(tmp_path), [*photos, *WORDS], out=tmp_path / "out", seeds=1, plan="no")
    assert "failed: the process ended early (SIGKILL)" in (tmp_path / "out" / "grid.md").read_text()


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


def plant(task, right: list[bool], steps: int, lines: list[dict]) -> None:
    """What a finished run leaves."""
    folder, evaluation = task.folder, task.result("knn").parent
    evaluation.mkdir(parents=True)
    folder.card.write_text(json.dumps({"info": {"step": steps}}))
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    predicted = (f"{n}.png,a,{'a' if is_right else 'b'},1.0\n" for n, is_right in enumerate(right))
    (evaluation / "predictions.csv").write_text("filename,label,predicted,probability\n" + "".join(predicted))
    (evaluation / "result.json").write_text("{}")
    test = task.cfg.eval.test
    task.write_record(Record("", steps, 100.0 + task.seed, 2 * 10**9, {"train": task.cfg.data.path, "test": test}))


def line(step: int, marginal_entropy: float) -> dict:
    figures = {"log_k": 5.0, "kl": 1.0, "teacher_entropy": 1.0, "marginal_entropy": marginal_entropy}
    return {"step": step, "loss": 2.0, "images_per_s": 50.0 + step % 2, **figures}


@pytest.fixture
def planted(tmp_path):
    """A grid of two rows with two seeds; the second row collapses with seed 1."""
    grid = read_grid(write(tmp_path))
    tasks = make_tasks(grid, [*WORDS, "data.path=train", "eval.test=test"], "", 2, tmp_path)
    rng = np.random.default_rng(0)
    right = {task.name: rng.random(200) < (0.8 if task.row.name == "plain" else 0.3) for task in tasks}
    for task in tasks:
        collapses = task.name == "no crops, seed 1"
        plant(
            task,
            right[task.name].tolist(),
            240,
            [line(n, 0.0 if collapses and n >= 120 else 4.0) for n in range(20, 241, 20)],
        )
    return grid, tasks, right


def test_the_table_of_planted_results(planted, tmp_path):
    grid, tasks, right = planted
    plain, crops = findings.collect(grid, tasks)
    mean = {
        name: (right[f"{name}, seed 0"].mean() + right[f"{name}, seed 1"].mean()) / 2 for name in ("plain", "no crops")
    }
    base, found = plain.results["knn"], crops.results["knn"]
    assert base.difference is None
    assert found.mean == pytest.approx(mean["no crops"])
    assert found.std == pytest.approx(
        np.std([right["no crops, seed 0"].mean(), right["no crops, seed 1"].mean()], ddof=1)
    )
    assert found.difference == pytest.approx(mean["no crops"] - mean["plain"])
    each = (
        right["no crops, seed 0"] * 1.0 + right["no crops, seed 1"] - right["plain, seed 0"] - right["plain, seed 1"]
    ) / 2
    half = 1.96 * each.std() / np.sqrt(len(each))
    low, high = found.difference_interval
    assert (low, high) == pytest.approx((each.mean() - half, each.mean() + half), abs=0.01)
    assert (crops.steps, crops.images, crops.images_per_s, crops.peak_memory) == (240, 1920, 50.0, 2 * 10**9)
    assert crops.cpu_seconds == 100.5
    assert crops.remarks == ["collapse since step 120 (seed 1)"]
    assert (base.published, found.published) == (72.8, 67.9)

    written = write_tables(grid, [plain, crops], "", ["seed=0"], tmp_path)
    assert [file.suffix for file in written] == [".md", ".csv", ".json", ".html"]
    shown = written[0].read_text()
    assert "| 67.9 (-4.9) |" in shown and "| 72.8 |" in shown
    assert '"collapse": all images go to one prototype.' in shown
    assert written[1].read_text().count("\n") == 3
    assert json.loads(written[2].read_text())["rows"][1]["words"] == ["views.locals=0"]
    assert "67.9 (-4.9)</td>" in written[3].read_text()


def test_the_table_says_what_is_missing_or_unlike(planted, tmp_path):
    grid, tasks, _ = planted
    tasks[0].write_record(
        Record("NaN: at step 5 the loss is nan. Remedy, in a new run.dir: a lower optim.lr", 100)
    )  # plain, seed 0
    tasks[1].folder.card.write_text(json.dumps({"info": {"step": 480}}))
    plain, crops = findings.collect(grid, tasks)
    assert plain.remarks == ["failed: NaN: at step 5 the loss is nan (seed 0)"]
    assert list(plain.results["knn"].values) == [1]
    assert plain.cpu_seconds == 101.0  # that of the whole run alone
    seed1 = findings.read_right(tasks[3], "knn"), findings.read_right(tasks[2], "knn")
    assert crops.results["knn"].difference == pytest.approx(np.mean([seed1[0][n] - seed1[1][n] for n in seed1[0]]))
    assert findings.unequal([plain, crops], "").endswith("are not comparable: plain 1,920, no crops 3,840.")
    assert findings.unequal([plain, crops], "6min").startswith("Each run trained for about 6min")
    assert "(seed 0)" in result_table(grid, [plain, crops]).rows[0][-1].text


def test_a_row_like_the_first_one_is_named(tmp_path):
    grid = read_grid(write(tmp_path))
    _, crops = findings.collect(grid, make_tasks(grid, [*WORDS, "data.path=train", "views.locals=0"], "", 1, tmp_path))
    assert crops.remarks == ["same options as plain", "not finished"]


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


@pytest.mark.parametrize("name", shipped())
def test_shipped_grids(name, tmp_path):
    grid = read_grid(name)
    tasks = make_tasks(grid, ["data.path=photos"], "", 1, tmp_path)
    assert [task.row.name for task in tasks] == [row.name for row in grid.rows]
    assert len({json.dumps(task.cfg.optim.length) for task in tasks}) == 1


@pytest.mark.parametrize(
    ("size", "heading", "barlow"), [("small", "published, ViT-S", None), ("resnet18", "published, RN50", 66.0)]
)
def test_published_figures_are_of_the_same_kind_of_network(size, heading, barlow, tmp_path):
    """Table 2 has DINO's k-NN with a ViT-S (74.5) and with a ResNet-50 (67.5), and Barlow Twins' with a ResNet-50 alone."""
    grid = read_grid("methods")
    tasks = make_tasks(grid, ["data.path=photos", f"model.size={size}"], "", 1, tmp_path)
    found = {one.row.name: one for one in findings.collect(grid, tasks)}
    assert found["DINO"].results["knn"].published == (74.5 if size == "small" else 67.5)
    assert found["Barlow Twins"].results["knn"].published == barlow
    table = result_table(grid, list(found.values()))
    assert table.headings.count(heading) == 2
    assert sum(one.results["knn"].published is not None for one in found.values()) == (5 if size == "small" else 10)


def test_a_row_may_name_the_published_network(tmp_path):
    text = "{published: imagenet, rows: {a: {published: {method: DINO, arch: ViT-B/16}}, b: {published: {method: SCLRv2}}}}"
    grid = read_grid(write(tmp_path, text))
    a, b = findings.collect(grid, make_tasks(grid, ["data.path=photos"], "", 1, tmp_path))
    assert (a.results["knn"].published, a.published_network) == (76.1, "ViT-B/16")
    assert (b.results["knn"].published, b.published_network) == (None, "")


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("rows: {a: [optim.lrr=1]}", [], "row 'a': there is no option optim.lrr; did you mean optim.lr?"),
        ("rows: {a: [optim.lr=x]}", [], "row 'a': optim.lr: takes a number: 0 to 10 ('x' is not)"),
        ("rows: {a: [], a: []}", [], "a key stands there twice"),
        ("rows: {a b: [], a_b: []}", [], "the rows 'a b' and 'a_b' would share the folder a_b"),
        ("rows: {}", [], "name one row or more"),
        ("rows: {a: {wrds: []}}", [], "row 'a': there is no wrds; did you mean words?"),
        ("rows: {a: views.locals=0}", [], "row 'a': takes a list of texts"),
        ("row: {}", [], "there is no row; did you mean rows?"),
        ("{base: small_9k, rows: {a: []}}", [], "row 'a': small_9k: no such config file; did you mean small_1k?"),
        ("rows: {a: []}", ["base=small_9k"], "row 'a': small_9k: no such config file"),
        ("{evaluations: [davis], rows: {a: []}}", [], "davis predicts no class of each image"),
        ("{evaluations: [kn], rows: {a: []}}", [], "there is no evaluation kn; did you mean knn?"),
        ("{published: tables, rows: {a: []}}", [], "published=tables: one of "),
        ("{published: ablations, rows: {a: {published: {row: 77}}}}", [], "row 'a': the published table ablations has no row"),
        ("rows: {a: []}", ["run.dir=x"], "run.dir=x: the grid sets this option itself; out= names its folder"),
        ("rows: {a: []}", ["task=9", "data.path=x"], "task=9: the grid has 3 runs"),
        ("rows: {a: []}", [], "data.path is not set"),
        ("rows: {a: []}", ["data.path=nowhere"], "nowhere"),
    ],
)  # fmt: skip
def test_mistakes(text, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert message in refused(["grid", write(tmp_path, text), *words], capsys)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]


def test_an_unknown_grid(capsys):
    assert refused(["grid", "ablation"], capsys).startswith("ablation: no such grid; did you mean ablations?")
