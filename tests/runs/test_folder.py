"""What a run's folder says of the run, also after it has been resumed."""

from pathlib import Path

import pytest

from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.options import Config
from dinolab.recipes import load_config
from dinolab.rundir import RunFolder
from dinolab.runs.folder import describe_run
from dinolab.runs.train import train
from tests.pictures import TINY, make_folder


def config(data: Path, *more: str) -> Config:
    return load_config(None, [*TINY, f"data.path={data}", *more])


@pytest.mark.parametrize("began", [[], ["highres.length=4 steps"]], ids=["one phase", "two phases"])
def test_the_configuration_is_that_of_the_last_call(began: list[str], tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", per_class=2)
    source = open_source(str(data))
    describe_run(RunFolder(tmp_path), config(data, *began), source, resumed=False)
    later = config(data, "highres.length=4 steps", "run.keep=5", "eval.k=3")
    describe_run(RunFolder(tmp_path), later, source, resumed=True)
    assert load_config(tmp_path / "config.yaml") == later


def test_a_refused_call_leaves_the_configuration_as_it_was(tmp_path: Path) -> None:
    data, other = make_folder(tmp_path / "data", per_class=2), make_folder(tmp_path / "other", per_class=3)
    cfg = config(data)
    describe_run(RunFolder(tmp_path), cfg, open_source(str(data)), resumed=False)
    with pytest.raises(UserError, match="has 6 images"):
        describe_run(RunFolder(tmp_path), config(other), open_source(str(other)), resumed=True)
    assert load_config(tmp_path / "config.yaml") == cfg


def test_a_refused_training_leaves_no_folder(tmp_path: Path) -> None:
    words = [*TINY, f"data.path={make_folder(tmp_path / 'data', per_class=2)}", "init.weights=nowhere.pth"]
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        train(None, *words, f"run.dir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_a_refused_training_leaves_a_folder_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"data\.path is not set"):
        train(None, *TINY, f"run.dir={tmp_path / 'run'}")
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
