"""What every evaluation keeps to, and that a new one needs one file and one line."""

import ast
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console

import dinolab
from dinolab.errors import UserError
from dinolab.evals import EVALS
from dinolab.evals.comparison_table import cells
from dinolab.evals.contract import EvaluationOptions
from dinolab.evals.result import Measured, Result
from dinolab.evals.results import table
from tests.pictures import make_folder
from tests.toy.evaluation import TOY

SOURCE = Path(dinolab.__file__).parent


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr("dinolab.evals.throughput.SECONDS", 0)
    train = make_folder(tmp_path / "train", per_class=10, classes=3, seed=0)
    return str(train), str(make_folder(tmp_path / "test", per_class=4, classes=3, seed=1))


@pytest.mark.parametrize("name", EVALS)
def test_every_evaluation_describes_itself(name):
    evaluation = EVALS[name]
    assert evaluation.title and evaluation.about.endswith(".") and evaluation.FIGURES
    assert issubclass(evaluation.Options, EvaluationOptions) and issubclass(
        evaluation.Options, evaluation.needs.Options
    )
    assert all("help" in f.metadata for f in fields(evaluation.Options))
    for figure in evaluation.FIGURES:
        for place in figure.published.split():
            file, column = place.split("@")[0].split(".")
            heading = (SOURCE / "report" / "reference" / f"{file}.csv").read_text().splitlines()[0]
            assert column in heading.split(",")


def test_a_new_evaluation_is_one_file_and_one_line(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(EVALS, "toy", TOY)
    found = dinolab.evaluate("toy", "pixels", *folders, tmp_path / "alone", size=32, cache="none", power=1)
    assert found.evaluation == "toy" and found.main.value == 0 and found.settings["power"] == 1
    kept = json.loads((tmp_path / "alone" / "result.json").read_text())
    assert kept["figures"]["error"]["value"] == 0 and kept["version"] == 2
    console = Console(width=100, record=True)
    console.print(table(found, TOY))
    shown = console.export_text()
    assert "nearest class mean" in shown and "px" in shown
    with pytest.raises(UserError, match="did you mean power"):
        dinolab.evaluate("toy", "pixels", *folders, powr=1)

    both = dinolab.compare("pixels", [], *folders, tmp_path / "both", evaluations=["knn", "toy"], size=32, cache="none")
    assert cells(both)[0] == ["", "knn, %", "toy, % (lower is better)", "images/s"]
    assert cells(both)[1][2] == "0.0"
    assert "lower is better" in both._repr_mimebundle_()["text/html"]
    assert (tmp_path / "both" / "accuracy.png").is_file()
    assert (tmp_path / "both" / "pixels" / "toy" / "result.json").is_file()


def own_files(name):
    """An evaluation's files begin with its name."""
    word = name.replace("-", "_")
    return {file for file in (SOURCE / "evals").glob("*.py") if re.fullmatch(f"{word}(_[a-z]+)?", file.stem)}


def test_shared_files_name_no_evaluation():
    own = {file for name in EVALS for file in own_files(name)} | {SOURCE / "evals" / "__init__.py"}
    assert len(own) >= len(EVALS) + 1
    shared = [file for room in ("evals", "features") for file in (SOURCE / room).glob("*.py") if file not in own]
    assert len(shared) > 15
    words = re.compile("|".join(rf"(?<![\w-]){re.escape(word)}(?![\w-])" for word in words_of_evaluations()))
    found = [(file.name, text) for file in shared for text in texts_of(file) if words.search(text)]
    assert not found


def words_of_evaluations():
    return {word for name, evaluation in EVALS.items() for word in (name, evaluation.title)}


def texts_of(file):
    """String literals in the code, without docstrings: examples there may name evaluations."""
    tree = ast.parse(file.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [node.value for node in strings if id(node) not in docstrings]


def test_a_result_is_short_to_look_at():
    data = {"test_images": 1000, "test": "x"}
    figures = {"accuracy": Measured(0.5, (0.4, 0.61)), "own": Measured(2.0)}
    found = Result("knn", {"name": "runs/\x1bmine", "info": {"long": "x" * 999}}, data, {}, figures)
    found.per_class = {f"class{n}": {"accuracy": 0.5, "images": 1} for n in range(99)}
    line = "<Result of knn, runs/\\x1bmine: accuracy 50.0% (40.0% to 61.0%), own 2, 1,000 test images>"
    assert repr(found) == line
    assert "40.0% to 61.0%" in found._repr_mimebundle_()["text/html"] and len(str(found._repr_mimebundle_())) < 9999
    unlabelled = Result("unknown", {"name": "m"}, {}, {}, {})
    assert unlabelled._repr_mimebundle_() == {"text/plain": "<Result of unknown, m: no figures>"}
