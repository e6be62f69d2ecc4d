"""Results and comparisons that earlier versions wrote."""

import json
import tarfile
from pathlib import Path

import pytest

from dinolab.errors import UserError
from dinolab.evals import EVALS
from dinolab.evals.comparison import read_comparison
from dinolab.evals.comparison_table import cells, notes
from dinolab.evals.earlier import read_result
from dinolab.evals.result import Measured, Result


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fixtures")
    with tarfile.open(Path(__file__).parents[1] / "fixtures" / "earlier.tar.xz") as kept:
        kept.extractall(folder, filter="data")
    return folder / "earlier" / "dinov2" / "eval"


@pytest.mark.parametrize("name", ["knn", "logreg", "linear", "linear-dino", "finetune"])
def test_results_of_version_1(earlier, name):
    file = earlier / name / "result.json"
    content, result = json.loads(file.read_text()), read_result(file)
    assert result.evaluation == name and name in EVALS
    assert result.main == Measured(content["accuracy"], tuple(content["interval"]))
    assert result.other == content["also"] and result.per_class == content["per_class"]
    assert result.encoder == content["encoder"] and result.data == content["data"] and result.leaks == content["leaks"]
    assert result.settings == {key: value for key, value in content["protocol"].items() if key != "name"}
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_seeds_leaks_and_unknown_evaluations_of_version_1(tmp_path):
    seeds = {"seed": [0, 1], "accuracy": [0.5, 0.7], "mean": 0.6, "std": 0.1}
    content = {"protocol": {"name": "something else", "size": [8, 8]}, "encoder": {"name": "x"}, "seeds": seeds}
    content |= {"accuracy": 0.5, "leaks": [["a", "b"]], "without_leaks": 0.4}
    (tmp_path / "result.json").write_text(json.dumps(content))
    result = read_result(tmp_path / "result.json")
    assert result.evaluation == "something else" and result.figures["without_leaks"].value == 0.4
    assert result.seeds == {"seed": [0, 1], "value": [0.5, 0.7], "mean": 0.6, "std": 0.1}


def test_a_comparison_of_version_1(earlier):
    found = read_comparison(earlier / "all" / "all.json")
    assert found.evaluations == ["knn", "linear"]
    lines = cells(found)
    assert lines[0] == ["", "knn, %", "linear, %", "images/s"] and lines[1][1] == "100.0 (100.0-100.0)"
    assert notes(found)[0].startswith("Trained on images")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 3}', '{"version": 2}', '{"protocol": 1}', "\xff"])
def test_what_is_no_result_is_named(tmp_path, content):
    (tmp_path / "result.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"result\.json: "):
        read_result(tmp_path / "result.json")
