"""Encoders side by side: what `dinolab eval all` compared, and what else the run's folder holds."""

import shlex
import shutil

from dinolab.config import read_options
from dinolab.evals.compare import CompareOptions, compare
from dinolab.evals.comparison import Comparison, Entry, Row
from dinolab.evals.result import Measured, Result
from dinolab.report.comparison import comparison_table
from dinolab.report.evaluated import Evaluated
from dinolab.report.run import Run, read_run
from dinolab.report.sections import again


def measured(evaluation, encoder, accuracy, data, **settings) -> Result:
    figures = {"accuracy": Measured(accuracy, (accuracy - 0.1, accuracy + 0.1))}
    return Result(evaluation, {"name": encoder}, data, settings, figures)


def test_a_comparison_is_shown_and_its_results_once(run, tmp_path):
    made = tmp_path / "run"
    shutil.copytree(run, made, ignore=shutil.ignore_patterns("checkpoints"))
    images = str(run.parent / "images"), str(run.parent / "test")
    compare(str(made), ["pixels"], *images, made / "eval" / "all", evaluations=["knn"], cache="none")
    found = read_run(made)
    assert [(r.result.evaluation, found.is_own(r)) for r in found.results] == [
        ("knn", True), ("logreg", True), ("knn", False)
    ]  # fmt: skip
    ((_, comparison),) = found.comparisons
    table = comparison_table(comparison, found)
    assert table.headings == ["encoder", "k-NN, %", "logistic regression, %", "images/s"]  # the latter: evaluated apart
    assert [row[0].text for row in table.rows] == ["this run", "pixels"]
    assert table.rows[1][1].value == round(100 * found.results[2].main.value, 1)
    assert table.rows[0][2].value == round(100 * found.results[1].main.value, 1) and table.rows[1][2].text == ""
    command = shlex.split(again.comparison(comparison))
    assert command[:4] == ["dinolab", "eval", "all", str(made)]
    options = read_options(CompareOptions, command[4:])
    assert (options.against, options.evaluations, options.train, options.test) == (
        ["pixels"],
        ["knn"],
        images[0],
        [images[1]],
    )
    words = [line.split()[2] for line in again.commands(found) if line.startswith("dinolab eval")]
    assert words == ["knn", "logreg", "all"]


def test_an_encoder_has_one_row_beside_the_others(run, tmp_path):
    """Of encoders that an earlier comparison in the folder had, and of others that were evaluated apart."""
    images = {"train": "/images", "test": "/test"}
    mine = measured("knn", str(tmp_path), 0.5, images, k=20)
    row = Row("short", str(tmp_path), {"knn": Entry(mine)})
    settings = {"evaluations": ["knn"], "seeds": 1}
    apart = [
        measured("logreg", "pixels", 0.25, images),
        measured("knn", "pixels", 0.75, images, k=20),
        measured("knn", "untrained", 0.75, images, k=10),  # the column is of k = 20
        measured("knn", "elsewhere", 0.75, images | {"test": "/other"}, k=20),
    ]
    found = Run(tmp_path, results=[Evaluated(tmp_path, one) for one in (mine, *apart)])
    table = comparison_table(Comparison(images, settings, None, [row]), found)
    assert [[cell.text for cell in line[:3]] for line in table.rows] == [
        ["this run", "50.0 (40.0-60.0)", ""],
        ["pixels", "75.0 (65.0-85.0)", "25.0 (15.0-35.0)"],
    ]


def test_a_comparison_of_another_shape_is_left_out_and_named(tmp_path):
    (tmp_path / "eval" / "all").mkdir(parents=True)
    (tmp_path / "eval" / "all" / "all.json").write_text('{"encoders": [{"results": 3}], "settings": {}}')
    found = read_run(tmp_path)
    assert found.comparisons == []
    assert found.problems[0].startswith("all/all.json: left out: not a comparison")
