"""What puts a run together: messages that name its images."""

from pathlib import Path

import pytest
import torch

from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.recipes import load_config
from dinolab.runs.build import monitor_sources
from dinolab.runs.run import Run
from dinolab.runs.state import begin
from dinolab.training.phases import Phase
from tests.pictures import TINY, make_folder


def source(*paths: str) -> Source:
    return Source("images", list(paths), None, [])


def test_a_broken_image_in_a_shard_is_named_in_words(tmp_path: Path) -> None:
    said: list[str] = []
    run = object.__new__(Run)  # of all that a run has, what this asks for
    run.source = source("shards\x00/a/x.tar\x00512+9\x00cat/1.jpg")
    run.log = type("Log", (), {"say": staticmethod(said.append)})()
    run.state = type("State", (), {"broken": set(), "phase": Phase(load_config(None, ["data.max_broken=1"]), 64)})()
    run.note_broken([(0, "not an image"), (0, "not an image")])
    assert said == ["broken image 1, replaced by another draw: /a/x.tar: cat/1.jpg: not an image"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a/1.png", "b/2.png", "stray.png"], "stray.png lies beside the class folders a, b"),
        (["a/1.png"], "two or more subfolders"),
        (["all.csv", "1.png"], "column 'label' is empty in line 3"),
        (["other.csv", "1.png"], "no column 'label', only: filename, kind"),
        (["one.csv", "1.png"], "a single class, 'cat'"),
        (["few.csv", "1.png"], "class 'cat' has a single image"),
    ],
)
def test_why_there_is_no_knn_while_training(tmp_path: Path, files: list[str], words: str) -> None:
    content = {
        "all.csv": "filename,label\n1.png,cat\n1.png,\n",
        "other.csv": "filename,kind\n1.png,cat\n",
        "one.csv": "filename,label\n1.png,cat\n",
        "few.csv": "filename,label\n1.png,cat\n1.png,dog\n",
    }
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content.get(name, ""))
    path = tmp_path / files[0] if files[0].endswith(".csv") else tmp_path
    said: list[str] = []
    assert monitor_sources(load_config(None, [f"data.path={path}"]), open_source(str(path)), said.append) is None
    assert len(said) == 1 and words in said[0]
    never = load_config(None, [f"data.path={path}", "eval.every=0 steps"])
    assert monitor_sources(never, open_source(str(path)), said.append) is None and len(said) == 1


def test_durations_longer_than_the_run_are_named(tmp_path: Path) -> None:
    source = open_source(str(make_folder(tmp_path, per_class=4)))
    words = [*TINY, f"data.path={tmp_path}", "optim.warmup=2 epochs", "optim.length=1 steps"]
    (message,) = begin(Phase(load_config(None, words), len(source)), source, torch.device("cpu")).messages
    assert "the whole run of 1 steps, and cut to it: optim.warmup=2 epochs" in message
    fits = [*words, "optim.length=100 epochs"]
    assert begin(Phase(load_config(None, fits), len(source)), source, torch.device("cpu")).messages == []
