"""Grids that dinolab has, and mistakes in a grid or its command."""

import json
import re

import pytest

from dinolab.cli.grid import GridOptions
from dinolab.errors import UserError
from dinolab.grid.read import read_grid, shipped
from dinolab.grid.task import make_tasks
from tests.grid.parts import refused, write
from tests.pages import ROOT


@pytest.mark.parametrize("name", shipped())
def test_shipped_grids(name, tmp_path):
    grid = read_grid(name)
    tasks = make_tasks(grid, ["data.path=photos"], "", 1, tmp_path)
    assert [task.row.name for task in tasks] == [row.name for row in grid.rows]
    assert len({json.dumps(task.cfg.optim.length) for task in tasks}) == 1


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
        ("{words: [run.dir=x], rows: {a: []}}", [], "run.dir=x: the grid sets this option itself"),
        ("rows: {a: [], b: [run.dir=x]}", [], "row 'b': run.dir=x: the grid sets this option itself"),
        ("rows: {a: [], b: [eval.test=y]}", ["data.path=x", "eval.test=x"], "row 'b': eval.test=y: its figures would be of other images"),
        ("rows: {a: [], b: [data.label_column=y]}", ["data.path=x"], "row 'b': data.label_column=y: its figures would be of other"),
        ("rows: {a: [], b: [method=byol]}", ["head.prototypes=64"], "swav. Put it into the rows of such methods, in a grid file"),
        ("rows: {a: [}", [], "not valid YAML (expected the node content, but found '}', line 1, column 12)"),
        ("rows:\n  a: [\n  b: 1\n", [], "', line 4, column 1, in what begins in line 2)"),
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
    assert refused(["grid", "plan"], capsys).startswith(
        "plan: no such grid; the forecast alone is the option plan=only"
    )


def test_a_row_may_train_on_other_images(tmp_path):
    """Where all rows are evaluated on the same ones."""
    grid = read_grid(write(tmp_path, "rows: {a: [data.path=x], b: [data.path=y, data.images=z]}"))
    with pytest.raises(
        UserError, match=r"row 'b': data.path=y, data.images=z: its figures would be of other images than"
    ):
        make_tasks(grid, ["eval.test=t"], "", 1, tmp_path)
    a, b = make_tasks(grid, ["eval.train=e", "eval.test=t"], "", 1, tmp_path)
    assert (a.cfg.data.path, b.cfg.data.path) == ("x", "y")


@pytest.mark.parametrize("file", ["docs/grid.md", "docs/many-gpus.md", "scripts/slurm.sh"])
def test_arrays_have_a_job_for_each_run(file):
    """The examples of SLURM arrays name as many jobs as the grid has rows times the usual number of seeds."""
    arrays = re.findall(r"--array 1-(\d+) .*slurm\.sh ([a-z_]+) ", (ROOT / file).read_text())
    assert arrays
    assert [int(jobs) for jobs, _ in arrays] == [len(read_grid(name).rows) * GridOptions.seeds for _, name in arrays]
