"""The job on anybody's images: the whole of it in small, stopped and started again."""

import json

import pytest

from dinolab.cli import main
from dinolab.evals import compare, evaluate
from dinolab.evals.predict import predict
from dinolab.jobs import run_job, way_stages, ways
from dinolab.jobs.budget import Pace
from dinolab.jobs.ways import GIVEN, LABELS, PRETRAINED, Way
from dinolab.training import loop
from tests.jobs.conftest import make_har, read_sheet
from tests.pictures import TINY, make_folder

WORDS = tuple(word for word in TINY if not word.startswith(("optim.length", "eval.", "run.save", "run.pictures")))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    changed = {
        "untrained": Way("initial weights", GIVEN),
        "scratch": Way("from scratch", PRETRAINED, 0.5, "small", WORDS),
        "supervised": Way("with labels", LABELS, 0.2),
        "finetuned": Way("best, fine-tuned", LABELS, 0.3, best=True),
    }
    before = dict(ways.WAYS)  # several modules hold the mapping itself
    ways.WAYS.clear()
    ways.WAYS.update(changed)
    monkeypatch.setattr(way_stages, "training_pace", lambda cfg: Pace(100.0, 5.0))
    monkeypatch.setattr(way_stages, "finetuning_pace", lambda *args: Pace(60.0, 1.0))
    monkeypatch.setattr("dinolab.evals.logreg_fit.STRENGTHS", (0.01, 0.1))
    monkeypatch.setattr("dinolab.evals.throughput.SECONDS", 0)
    monkeypatch.setattr("dinolab.visuals.action_video.CARD", 0.1)
    yield
    ways.WAYS.clear()
    ways.WAYS.update(before)


class Work:
    """Counts steps of trainings and evaluations, and stops once in each."""

    def __init__(self, monkeypatch):
        self.steps, self.evaluated, self.stop_at = 0, [], {"step": 3, "evaluation": 4}
        self.train_step, self.evaluate = loop.train_step, evaluate.run_evaluation
        monkeypatch.setattr(loop, "train_step", self.step)
        for module in (evaluate, compare):
            monkeypatch.setattr(module, "run_evaluation", self.one)

    def step(self, *args, **options):
        self.steps += 1
        if self.stop_at.get("step") == self.steps:
            del self.stop_at["step"]
            self.steps -= 1
            raise KeyboardInterrupt
        return self.train_step(*args, **options)

    def one(self, *args, **options):
        if self.stop_at.get("evaluation") == len(self.evaluated):
            del self.stop_at["evaluation"]
            raise KeyboardInterrupt
        found = self.evaluate(*args, **options)
        self.evaluated.append(args[2].out)
        return found


def test_the_whole_job_stops_continues_and_decides_lengths_once(tmp_path, monkeypatch, capsys):
    folder, out = make_folder(tmp_path / "photos", 15), tmp_path / "out"
    make_folder(tmp_path / "more", 3)
    words = ["job", str(folder), "budget=10min", f"out={out}", f"unlabelled={tmp_path / 'more'}"]
    work = Work(monkeypatch)
    lengths = []
    for _ in range(2):
        assert main(words) != 0
        lengths.append(json.loads((out / "job.json").read_text())["epochs"])
    assert main(words) == 0
    settings = json.loads((out / "job.json").read_text())
    assert all(settings["epochs"][name] == length for found in lengths for name, length in found.items())
    assert 1 <= settings["epochs"]["scratch"] <= 0.95 * 600 * 0.5 / 100
    assert len(work.evaluated) == len(set(work.evaluated)) == 2 + 2 + 2

    figures = json.loads((out / "figures.json").read_text())
    assert list(figures["ways"]) == list(ways.WAYS) == [row[0] for row in figures["table"][1:]]
    assert figures["ways"]["untrained"]["difference"] is None and figures["ways"]["scratch"]["difference"]["interval"]
    shown = capsys.readouterr().out
    assert figures["recommendation"][0] in shown and "plan: 10 min in all" in shown
    assert [len(points) for points in json.loads((out / "curves.json").read_text())["ways"].values()] == [3, 3]
    page = (out / "report.html").read_text()
    assert "Ways to a network" in page and figures["recommendation"][0] in page
    assert f"dinolab job {folder} budget=10min" in page
    assert (out / "video.mp4").stat().st_size > 0
    predictions = read_sheet(out / "predictions.csv")
    assert len(predictions) == 6 and {row["label"] for row in predictions} <= {"class0", "class1"}
    again = predict(out, folder / "class0")  # the job's folder is that of the network and of its layer
    assert len(again.labels) == 15

    before = len(work.evaluated), work.steps
    assert main(words) == 0
    assert (len(work.evaluated), work.steps) == before and capsys.readouterr().out.count("finished before") == 9
    assert main([*words, "budget=20min"]) == 2
    assert "began with budget 600.0, not 1200.0" in capsys.readouterr().err


def test_ways_that_do_not_fit_are_left_out_and_said(tmp_path, monkeypatch, capsys):
    folder, out = make_folder(tmp_path / "photos", 12), tmp_path / "out"
    monkeypatch.setattr(way_stages, "training_pace", lambda cfg: Pace(1e6))
    assert main(["job", str(folder), "budget=2min", f"out={out}", "ways=scratch"]) == 0
    shown = capsys.readouterr().out
    assert "scratch: left out: its part of the time is" in shown and "Take untrained" in shown
    assert not (out / "ways").exists()


def test_mistakes_leave_nothing_behind(tmp_path, capsys):
    few = make_folder(tmp_path / "few", 3)
    for words, message in (
        (["budget=soon"], "budget=soon: not a time"),
        (["ways=all"], "'all' is not one of"),
        ([], "6 labelled images; a job needs 20"),
    ):
        assert main(["job", str(few), f"out={tmp_path / 'out'}", *words]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert main(["job", "har", "data=x", "budget=1h", "train"]) == 2
    assert "budget= goes with data= and out= alone" in capsys.readouterr().err


def test_human_action_recognition_goes_the_same_ways(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("dinolab.jobs.do_stage", lambda job, stages, name, title: done.append(name))
    out = run_job(str(make_har(tmp_path / "har", labels=False)), tmp_path / "out", "10min", har=True)
    assert done == [
        "untrained", "plan", "scratch", "supervised", "finetuned", "curves", "recommend", "video", "report",
    ]  # fmt: skip
    settings = json.loads((out / "job.json").read_text())
    assert settings["title"] == "Human Action Recognition"
    assert settings["command"] == f"dinolab job har data={tmp_path / 'har'} budget=10min out={out}"
    assert len(read_sheet(out / "data" / "pretrain.csv")) > len(read_sheet(out / "data" / "train.csv"))
