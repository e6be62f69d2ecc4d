import csv
import json
import math
import re
import shlex
import shutil

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from dinolab.cli import parser
from dinolab.evals.compare import compare
from dinolab.recipes import load_config
from dinolab.report import charts, curves, images, published, settings, tables
from dinolab.report.facts import Result, Run, read_run
from dinolab.runs.build import monitor_sources
from tests.pictures import TINY, make_folder


def test_the_train_command_makes_the_configuration_again(run):
    (command,) = [c for c in settings.commands(read_run(run)) if c.startswith("dinolab train")]
    words = shlex.split(command)[2:]
    assert load_config(None, words) == load_config(run / "config.yaml")
    awkward = ["optim.lr=1e-5", "data.path=a b'c", "run.compile=true", "eval.every=0 steps", "run.wandb=007", *TINY]
    cfg = load_config(None, awkward)
    assert load_config(None, settings.train_words(cfg)) == cfg


def test_evaluation_commands_say_what_was_chosen(run):
    result = Result(run, json.loads((run / "eval" / "knn" / "result.json").read_text()))
    result.content["protocol"] |= {"k": 7, "tokens": "both", "size": [16, 32]}
    args = parser().parse_args(shlex.split(settings.evaluation(result))[1:])
    assert (args.protocol, args.k, args.tokens, args.size, args.encoder) == ("knn", 7, "both", (16, 32), str(run))
    assert (args.train, args.test) == (str(run.parent / "images"), str(run.parent / "test"))


def test_settings_are_what_differs(run):
    one, two = (
        load_config(None, ["optim.lr=0.1", "run.dir=a"]),
        load_config(None, ["optim.lr=0.1", "seed=3", "run.dir=b"]),
    )
    found = {s.name: s for s in settings.settings([one, two])}
    assert set(found) == {"optim.lr", "seed"}
    assert (
        found["optim.lr"].same and found["optim.lr"].values == ["0.1", "0.1"] and found["optim.lr"].default == "0.0005"
    )
    assert not found["seed"].same and found["seed"].values == ["0", "3"]


def test_confusion_is_scikit_learns(run):
    result = Result(run / "eval" / "knn", {})
    found = images.read_predictions(result, [])
    matrix = images.confusion(found)
    truth, said = [p.label for p in found], [p.predicted for p in found]
    assert matrix.classes == ["class0", "class1", "class2"]
    np.testing.assert_array_equal(matrix.counts, confusion_matrix(truth, said, labels=matrix.classes))
    np.testing.assert_allclose(np.sum(matrix.shares, 1), 1)


def test_examples_are_the_surest_right_and_wrong(run):
    test = run.parent / "test"
    names = {f"class0/{n:03d}.png": str(test / f"class0/{n:03d}.png") for n in range(5)}
    said = ["class0", "class1", "class0", "class2", ""]
    found = [images.Prediction(n, "class0", s, p) for n, s, p in zip(names, said, (0.5, 0.6, 0.9, 0.7, 0.1))]
    shown = images.examples(found, names)
    assert [(p.caption, p.mark) for p in shown] == [
        ("✓ class0 90 %", "right"), ("✓ class0 50 %", "right"),
        ("✗ class2 70 %", "wrong"), ("✗ class1 60 %", "wrong"), ("✗ nothing 10 %", "wrong"),
    ]  # fmt: skip
    assert shown[2].alt == "003.png: a class0, taken for class2"


def test_images_that_vote_and_are_asked_are_those_of_the_training(tmp_path):
    folder = make_folder(tmp_path / "images", per_class=10)
    words = [*TINY, f"data.path={folder}", "eval.max_images=6"]
    cfg = load_config(None, words)
    source, votes, asked = images.open_images(cfg, tmp_path)
    expected = monitor_sources(cfg, source, print)
    assert [votes.paths, asked.paths] == [side.paths for side in expected] and len(votes) == 6
    source, votes, asked = images.open_images(load_config(None, [*words, "eval.every=0 steps"]), tmp_path)
    assert source is votes is asked


@pytest.mark.parametrize("split", ["given", "20% held out, somewhere"])
def test_test_images_are_found_by_their_names(run, split):
    data = {"train": str(run.parent / "images"), "test": str(run.parent / "test"), "split": split}
    where = images.test_images(Result(run, {"data": data}))
    folder = "test" if split == "given" else "images"
    assert where["class1/002.png"] == str(run.parent / folder / "class1" / "002.png")


def test_own_accuracies_stand_on_top_of_published_ones(tmp_path):
    def result(encoder, protocol, accuracy):
        data = {"test": "/data/some/test"}
        return Result(
            tmp_path, {"encoder": {"name": encoder}, "protocol": {"name": protocol}, "accuracy": accuracy, "data": data}
        )

    knn, linear = "weighted k-NN, as DINO", "linear heads, DINOv2's grid, on features without augmentation"
    mine = str(tmp_path)
    run = Run(tmp_path, results=[result(mine, knn, 0.5), result(mine, linear, 0.625), result("pixels", knn, 0.25)])
    by_title = {table.title: table for table in published.published([run])}
    table = by_title["ImageNet-1k"]
    rows = [dict(zip(table.headings, (cell.text for cell in row))) for row in table.rows]
    assert table.own == 2
    assert (rows[0]["method"], rows[0]["k-NN, %"], rows[0]["linear, %"]) == (
        f"{tmp_path.name}, on some/test",
        "50.0",
        "62.5",
    )
    assert (rows[1]["method"], rows[1]["k-NN, %"], rows[1]["linear, %"]) == ("pixels, on some/test", "25.0", "")
    assert {"method": "DINO", "network": "ViT-S/8", "linear, %": "79.7", "k-NN, %": "78.3"}.items() <= rows[-3].items()
    assert all(table.rows[table.own :] for table in by_title.values()) and len(by_title) == 7


def test_published_tables_are_whole():
    folder = published.files("dinolab.report") / "reference"
    for name in published.TABLES:
        with (folder / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows and all(None not in row and None not in row.values() for row in rows)


def test_a_comparison_is_shown_and_its_results_once(run, tmp_path):
    made = tmp_path / "run"
    shutil.copytree(run, made, ignore=shutil.ignore_patterns("checkpoints"))
    images = str(run.parent / "images"), str(run.parent / "test")
    compare(str(made), ["pixels"], *images, made / "eval" / "all", protocols=["knn"], cache=None)
    found = read_run(made)
    assert [(r.kind, found.is_own(r)) for r in found.results] == [("knn", True), ("logreg", True), ("knn", False)]
    table = tables.comparison(found.comparisons[0].content)
    assert table.headings == ["encoder", "knn, %", "images/s"]
    assert [row[0].text for row in table.rows] == ["run", "pixels"]
    assert table.rows[1][1].value == round(100 * found.results[2].accuracy, 1)
    args = parser().parse_args(shlex.split(settings.comparison(found.comparisons[0].content))[1:])
    assert (args.encoder, args.against, args.protocols, args.train, args.test) == (
        str(made),
        ["pixels"],
        ["knn"],
        *images,
    )
    words = [line.split()[2] for line in settings.commands(found) if line.startswith("dinolab eval")]
    assert words == ["knn", "logreg", "all"]


@pytest.mark.parametrize(
    "content", [{"encoders": [{}], "settings": {}}, {"encoders": [{"results": 3}], "settings": {"protocols": ["a"]}}]
)
def test_comparisons_of_another_shape_are_left_out(content):
    assert tables.comparison(content) is None


def test_evaluations_without_accuracy_show_their_figures(tmp_path):
    content = {"encoder": {"name": "x"}, "protocol": {"name": "retrieval"}, "map": 0.4321, "seed": 0}
    table = tables.evaluations([("a", Run(tmp_path), Result(tmp_path, content))])
    assert dict(zip(table.headings, (c.text for c in table.rows[0])))["also"] == "map 0.4321"


def test_benchmarks_of_any_shape():
    rows = [
        {"variant": "a", "images_per_s": 50.0, "odd": {"x": 1}},
        {"variant": "b", "images_per_s": 100.0},
        {"variant": "c", "note": "oom"},
    ]
    table = tables.benchmark({"rows": rows})
    assert table.headings == ["variant", "images per s", "odd", ""]
    assert table.rows[2][3].text == "oom"
    assert [row[1].share for row in table.rows] == [0.5, 1.0, None]
    assert table.rows[0][2].text == "{'x': 1}"


def places(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())]
        for line in re.findall(r'points="([^"]*)"', svg)
    ]


def test_chart_puts_points_where_they_belong():
    made = charts.chart("t", [charts.Line("a", [0, 5, 10], [0.0, 1.0, 2.0])])
    ((x0, y0), (x1, y1), (x2, y2)) = places(made.svg)[0]
    assert (x0, x2) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert math.isclose(x1, (x0 + x2) / 2, abs_tol=0.1) and math.isclose(y1, (y0 + y2) / 2, abs_tol=0.1) and y0 > y2
    logarithmic = charts.chart("t", [charts.Line("a", [1, 10, 100], [1, 10, 100])], log_x=True, log_y=True)
    ((x0, y0), (x1, y1), (x2, y2)) = places(logarithmic.svg)[0]
    assert math.isclose(x1, (x0 + x2) / 2, abs_tol=0.1) and math.isclose(y1, (y0 + y2) / 2, abs_tol=0.1)


@pytest.mark.parametrize("value", [0.0, 0.02, -3.0, 1e-6])
@pytest.mark.parametrize("log", [False, True])
def test_chart_of_a_constant_stays_inside(value, log):
    made = charts.chart("t", [charts.Line("a", [3], [value]), charts.Line("b", [], [])], log_y=log, log_x=log)
    ((x, y),) = places(made.svg)[0]
    assert charts.LEFT <= x <= charts.WIDTH - charts.RIGHT and charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM
    assert made.legend == [("a", 0)]
    assert charts.chart("t", [charts.Line("b", [], [])]) is None


def test_no_spike_is_thinned_away():
    values = [1.0] * 5000
    values[1234], values[4321] = 9.0, -9.0
    thin = charts.thin(list(zip(range(5000), values)))
    assert len(thin) < 1.5 * charts.POINTS and thin == sorted(thin)
    assert {(1234, 9.0), (4321, -9.0), (0, 1.0), (4999, 1.0)} <= set(thin)


def test_two_runs_have_a_panel_a_figure_and_a_colour_a_run(tmp_path):
    rows = [{"step": s, "loss": 3.0 - s, "dino": 1.0} for s in range(3)]
    (tmp_path / "b").mkdir()
    a, b = Run(tmp_path, metrics=[{"step": 0, "ibot": 1.0}]), Run(tmp_path / "b", metrics=rows)
    by_title = {c.title: c for c in curves.curves([a, b])["Loss and accuracy"]}
    assert list(by_title) == ["loss: sum", "loss: DINO", "loss: iBOT"]
    assert by_title["loss: sum"].legend == [("b", 1)] and by_title["loss: iBOT"].legend == [(tmp_path.name, 0)]


def test_short_numbers():
    assert [charts.short(v) for v in (0, 0.25, 12, 1500, 12000, 2.5e6, 1e-6, 5e-4)] == [
        "0", "0.25", "12", "1500", "12k", "2.5M", "1e-6", "5e-4",
    ]  # fmt: skip
