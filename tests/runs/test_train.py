"""What puts a run together: messages that name its images."""

from pathlib import Path

from dinolab.data.types import Source
from dinolab.recipes import load_config
from dinolab.runs.run import Run
from dinolab.training.phases import Phase


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
