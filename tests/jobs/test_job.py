"""The whole job on a planted set: stopped in every stage and started again, and what it refuses."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from dinolab import report
from dinolab.cli import main
from dinolab.config import read_options
from dinolab.errors import UserError
from dinolab.evals import compare, evaluate
from dinolab.evals.result import Measured, Result
from dinolab.jobs import SCALES, STAGES, checks, plan, run_har, stages
from dinolab.jobs.plan import Scale
from dinolab.training import loop
from dinolab.visuals import action_video
from tests.jobs.conftest import make_har, read_sheet
from tests.pictures import TINY

SHIPPED = dict(SCALES)
STEPS = 12  # of TINY
OPTIONS = [*TINY, "masks.share=0.5", "run.keep_every=0 steps"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(SCALES, "smoke", Scale("Shrunk for a test.", most=(8, 3), finetune_epochs=1, clip=1, step=None))
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 10)
    monkeypatch.setattr("dinolab.evals.logreg_fit.STRENGTHS", (0.01, 0.1))
    monkeypatch.setattr("dinolab.evals.throughput.SECONDS", 0)
    monkeypatch.setattr("dinolab.visuals.action_video.CARD", 0.1)


class Benchmarks:
    """In place of their processes: writes what they would; a stop leaves half of it, as Ctrl-C does."""

    def __init__(self):
        self.done = []
        self.stop_at = ""

    def __call__(self, command):
        assert command[1:4] == ["-m", "dinolab", "bench"]
        name = command[4]
        out = Path(next(word for word in command[5:] if word.startswith("out=")).removeprefix("out="))
        assert all("=" in word for word in command[5:])
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps({"benchmark": name, "title": name, "rows": [{"ms": 1.0}]}))
        if name == self.stop_at:
            self.stop_at = ""
            raise KeyboardInterrupt
        self.done.append(name)
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def benchmarks(monkeypatch):
    made = Benchmarks()
    monkeypatch.setattr(stages.subprocess, "run", made)
    return made


def words(har: Path, out: Path, *more: str) -> list[str]:
    return ["job", "har", f"data={har}", f"out={out}", "scale=smoke", *OPTIONS, *more]


class Stops:
    """Counts the job's work, and interrupts it once in each of its stages."""

    def __init__(self, monkeypatch, benchmarks):
        self.steps, self.evaluated, self.made = 0, [], []
        self.at_step, self.at_evaluation = (
            [5, 20],
            [1, 5],
        )  # of the run, of DINO; of the baselines', of the evaluations'
        self.train_step, self.evaluate = loop.train_step, evaluate.run_evaluation
        benchmarks.stop_at = "throughput"
        monkeypatch.setattr(loop, "train_step", self.step)
        for module in (evaluate, compare):
            monkeypatch.setattr(module, "run_evaluation", self.one)
        for module, name in ((action_video, "action_video"), (report, "report")):
            monkeypatch.setattr(module, name, self.stopping_once(name, getattr(module, name)))

    def step(self, *args, **options):
        self.steps += 1
        if self.steps in self.at_step:
            os.kill(os.getpid(), signal.SIGINT)
        return self.train_step(*args, **options)

    def one(self, *args, **options):
        if self.at_evaluation and len(self.evaluated) + 1 == self.at_evaluation[0]:
            del self.at_evaluation[0]
            raise KeyboardInterrupt
        found = self.evaluate(*args, **options)
        self.evaluated.append(args[2].out)
        return found

    def stopping_once(self, name, make):
        def work(*args, **options):
            self.made.append(name)
            if self.made.count(name) == 1:
                raise KeyboardInterrupt
            return make(*args, **options)

        return work


@pytest.mark.slow
def test_stopped_in_every_stage_it_finishes_and_does_nothing_twice(tmp_path, monkeypatch, benchmarks, capsys):
    har, out = make_har(tmp_path / "har", labels=False, train=12), tmp_path / "out"
    stops = Stops(monkeypatch, benchmarks)
    starts = 0
    while main(words(har, out)) != 0:
        starts += 1
        assert starts < 10
    assert starts == 7  # training, DINO, supervised, an evaluation, a benchmark, video, report
    assert stops.steps == 2 * STEPS
    assert len(stops.evaluated) == len(set(stops.evaluated))
    assert len(stops.evaluated) == 1 + 4 * 3 + 1 + 1  # supervised; four encoders; fine-tuned; submission
    assert benchmarks.done == ["attention", "throughput"]
    assert stops.made == ["action_video"] * 2 + ["report"] * 2
    for name in ("report.html", "video.mp4", "table.md", "model.safetensors", "speed/stages.json"):
        assert (out / name).stat().st_size > 0
    names = [row["filename"] for row in read_sheet(har / "Testing_set.csv")]
    predictions = read_sheet(out / "submission" / "predictions.csv")
    assert [row["filename"] for row in predictions] == names
    assert {row["label"] for row in predictions} <= {"calling", "cycling", "sleeping"}
    report_page = (out / "report.html").read_text()
    assert "Shrunk for a test." in report_page and "36 labelled images instead of 12,600" in report_page

    capsys.readouterr()
    assert main(words(har, out)) == 0
    shown = capsys.readouterr().out
    assert shown.count("finished before") == len(STAGES) and stops.steps == 2 * STEPS and len(stops.evaluated) == 15
    rows = [line.split()[0] for line in shown.splitlines() if "(" in line and "│" in line]
    assert rows == ["out", "dino", "untrained", "pixels", "supervised"]
    assert shown.splitlines()[-1] == f"{out}/report.html, {out}/video.mp4"

    # what has changed is repeated, with what was made from it; nothing else
    (out / "stages" / "evaluate.json").unlink()
    assert main(words(har, out)) == 0
    assert stops.made == ["action_video"] * 2 + ["report"] * 3
    assert stops.steps == 2 * STEPS and len(stops.evaluated) == 15 and benchmarks.done == ["attention", "throughput"]


def test_a_stage_alone(small_har, tmp_path, benchmarks, capsys):
    out = tmp_path / "out"
    assert main(words(small_har, out, "speed")) == 0
    assert [path.name for path in (out / "stages").glob("*.json")] == ["speed.json"]
    assert main(words(small_har, out, "video")) == 2
    assert "video needs train" in capsys.readouterr().err
    assert main(words(small_har, out, "video", "train")) == 0
    assert (out / "video.mp4").is_file() and not (out / "baselines").exists()


def test_the_table_has_the_fine_tuned_networks_beside_the_others(tmp_path):
    from dinolab.evals import comparison_table
    from dinolab.evals.comparison import Comparison, Entry, Row
    from dinolab.jobs.table import read_table

    def result(evaluation, encoder, accuracy):
        data = {"train": "a", "test": "b"}
        figures = {"accuracy": Measured(accuracy, (0.1, 0.9))}
        return Result(evaluation, {"name": encoder}, data, {"epochs": 3}, figures)

    out = str(tmp_path)
    entries = {"linear": Entry(result("linear", out, 0.5)), "knn": Entry(result("knn", out, 0.25))}
    settings = {"evaluations": ["linear", "knn"], "seeds": 1}
    comparison = Comparison({"train": "a", "test": "b"}, settings, encoders=[Row("out", out, entries)])
    (tmp_path / "eval" / "all").mkdir(parents=True)
    (tmp_path / "eval" / "all" / "all.json").write_text(json.dumps(comparison.to_json()))
    for name, encoder, accuracy in (("finetuned", out, 0.75), ("supervised", "supervised", 0.125)):
        (tmp_path / "eval" / name).mkdir()
        found = result(plan.FINETUNING, encoder, accuracy)
        (tmp_path / "eval" / name / "result.json").write_text(json.dumps(found.to_json()))
    lines = comparison_table.markdown(read_table(tmp_path)).splitlines()
    assert lines[0] == "|  | linear, % | knn, % | finetune, % | images/s |"
    assert lines[2] == "| out | 50.0 (10.0-90.0) | 25.0 (10.0-90.0) | 75.0 (10.0-90.0) | - |"
    assert lines[3] == "| supervised | - | - | 12.5 (10.0-90.0) | - |"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["scale=big"], r"scale=big.*smoke, small, full"),
        (["trian"], r"trian.*train"),
        (["data.path=x"], r"data.path=x: the job sets this option itself"),
        (["optim.lenght=1 steps"], r"optim.lenght.*optim.length"),
        (["official=nowhere.pth"], r"official=nowhere.pth: no such file"),
        (["clip=nowhere.mp4"], r"clip=nowhere.mp4: no such file"),
        (["data=tests"], r"no Training_set.csv in it"),
    ],
)
def test_mistakes_are_named_before_anything_is_done(small_har, tmp_path, capsys, more, message):
    import re

    assert main(words(small_har, tmp_path / "out", *more)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_or_of_another_scale_is_left_alone(small_har, tmp_path, benchmarks, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert main(words(small_har, tmp_path / "out")) == 2
    assert "holds something else" in capsys.readouterr().err
    assert main(words(small_har, tmp_path / "job", "speed")) == 0
    assert main([*words(small_har, tmp_path / "job", "speed"), "scale=small"]) == 2
    assert "began with scale smoke, not small" in capsys.readouterr().err
    assert main(words(small_har, tmp_path / "job", "speed", "optim.lr=1")) == 2
    assert "began with options" in capsys.readouterr().err
    assert main(words(small_har, tmp_path / "job", "speed", "run.micro_batch=4")) == 0


def test_a_mistake_in_the_first_call_pins_nothing(small_har, tmp_path, benchmarks, capsys):
    out = tmp_path / "job"
    assert main(["job", "har", f"data={tmp_path / 'nowhere'}", f"out={out}"]) == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err
    assert main(words(small_har, out, "speed")) == 0
    other_order = [*words(small_har, out, "speed")[:4], *reversed(words(small_har, out, "speed")[4:]), "eval.k=5"]
    assert main(other_order) == 0


def test_packages_that_are_missing_are_named_first(small_har, tmp_path, monkeypatch):
    monkeypatch.setattr("dinolab.jobs.checks.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"av and timm is missing: pip install 'dinolab\[timm,video\]'"):
        run_har(str(small_har), tmp_path / "out", "smoke")


def test_a_benchmark_that_fails_is_named(small_har, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 3))
    assert main(words(small_har, tmp_path / "out", "speed")) == 2
    assert "dinolab bench attention failed, see above (exit status 3)" in capsys.readouterr().err


def test_a_folder_in_the_place_of_a_stage_is_named_as_data(small_har):
    with pytest.raises(UserError, match=r"did you mean data=.*\?"):
        checks.check_scale_and_stages("smoke", [str(small_har)])


def test_a_job_of_an_earlier_version_continues(small_har, tmp_path, benchmarks):
    """Its settings are in recipe.json, and its stages' marks are the same."""
    out = tmp_path / "out"
    run_har(str(small_har), out, "smoke", ["speed"], options=OPTIONS)
    settings = json.loads((out / "job.json").read_text())
    assert settings["job"] == "har" and settings["scale"] == "smoke" and settings["title"] == plan.TITLE
    (out / "job.json").unlink()
    (out / "recipe.json").write_text(
        json.dumps({"recipe": "har", **{key: settings[key] for key in ("scale", "options")}})
    )
    run_har(str(small_har), out, "smoke", ["speed"], options=OPTIONS)
    assert benchmarks.done == ["attention", "throughput"] and not (out / "job.json").exists()
    with pytest.raises(UserError, match="began with scale smoke, not small"):
        run_har(str(small_har), out, "small", ["speed"], options=OPTIONS)


def test_shipped_scales_are_what_they_say():
    from dinolab.recipes import load_config

    full = load_config("har_full")
    assert (full.method, full.model.size, full.model.patch_size, full.views.global_size) == ("dinov2", "small", 8, 224)
    for name in SCALES:
        assert load_config(f"har_{name}").model.patch_size == 8


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("what", ["attention", "throughput"])
def test_words_of_the_benchmarks_are_options_of_theirs(name, what):
    from dinolab.cli import bench

    schema = {"attention": bench.Attention, "throughput": bench.Throughput}[what]
    words = getattr(SHIPPED[name], what)
    options = read_options(schema, words)
    assert not words or (options.models and all("/" in model for model in options.models))
