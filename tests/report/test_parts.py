import csv
import math
import re
import shlex
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from dinolab.config import read_options
from dinolab.evals import EVALS
from dinolab.evals.contract import Evaluation, EvaluationOptions, Figure
from dinolab.evals.result import Measured, Result
from dinolab.fields import option
from dinolab.methods import METHODS
from dinolab.options import Config
from dinolab.panels import Panel
from dinolab.recipes import load_config, load_saved_config
from dinolab.report import charts, predictions, published
from dinolab.report.details import details
from dinolab.report.evaluated import Evaluated, read_evaluated
from dinolab.report.run import Run, read_run
from dinolab.report.sections import again, configuration, curves, evaluations, glance, speed
from dinolab.report.sections.section import open_images
from dinolab.report.verdict import verdict
from dinolab.rundir import PICTURES
from dinolab.runs.build import monitor_sources
from tests.pictures import TINY, make_folder


class Depth(Evaluation):
    """An evaluation that no code of the report knows: two figures, neither an accuracy, the lower the better."""

    title = "depth"
    about = "Depth of each patch by a linear layer."
    FIGURES = (
        Figure("rmse", "RMSE", unit="m", higher_is_better=False, published="distillation.depth_rmse"),
        Figure("log", "log10 error", unit="", higher_is_better=False),
    )

    @dataclass
    class Options(EvaluationOptions):
        depths: str = option("", "images with depth")
        bins: int = option(256, "depth bins", 1, 1000)

    def run(self, encoder, data, options, context):
        raise NotImplementedError


@pytest.fixture
def depth(monkeypatch) -> str:
    monkeypatch.setitem(EVALS, "depth", Depth())
    return "depth"


def result(
    evaluation, encoder, value=None, low=0.0, high=0.0, info=None, data=None, key="accuracy", **settings
) -> Result:
    figures = {} if value is None else {key: Measured(value, (low, high))}
    about = {"test": "/data/some/test", "split": "given"} | (data or {})
    return Result(evaluation, {"name": encoder, "info": info}, about, settings, figures)


def test_the_train_command_makes_the_configuration_again(run):
    (command,) = [c for c in again.commands(read_run(run)) if c.startswith("dinolab train")]
    assert load_config(None, shlex.split(command)[2:]) == load_saved_config(run / "config.yaml")
    cfg = load_config(None, ["method=dino", "ema.start=0.9"])
    assert load_config(None, shlex.split(again.training(cfg))[2:]) == cfg


def test_evaluation_commands_have_what_was_chosen(run):
    found = read_evaluated(run / "eval" / "knn" / "result.json")
    found.result.settings.update({"k": 7, "tokens": "both", "size": [16, 32]})
    dinolab, verb, name, encoder, *words = shlex.split(again.evaluation(found))
    assert (dinolab, verb, name, encoder) == ("dinolab", "eval", "knn", str(run))
    options = read_options(EVALS["knn"].Options, words)
    assert (options.k, options.tokens, options.size, options.seed) == (7, "both", "16x32", 0)
    assert (options.train, options.test) == (str(run.parent / "images"), [str(run.parent / "test")])
    for name in ("007", "other, with a comma"):
        found.result.tests.append(result("knn", "x", data={"test": name}))
        *_, word = (word for word in shlex.split(again.evaluation(found)) if word.startswith("test="))
        assert read_options(EVALS["knn"].Options, ["train=x", word]).test[-1] == name


def test_held_out_images_are_not_named_as_test_images(run):
    found = read_evaluated(run / "eval" / "knn" / "result.json")
    found.result.data["split"] = "20% held out, kept somewhere"
    assert "test=" not in again.evaluation(found) and "train=" in again.evaluation(found)


def test_settings_are_what_differs(run):
    one, two = (
        load_config(None, ["optim.lr=0.1", "run.dir=a"]),
        load_config(None, ["optim.lr=0.1", "seed=3", "run.dir=b"]),
    )
    found = {s.name: s for s in configuration.settings([one, two])}
    assert set(found) == {"optim.lr", "seed"}
    assert (
        found["optim.lr"].same and found["optim.lr"].values == ["0.1", "0.1"] and found["optim.lr"].default == "0.0005"
    )
    assert not found["seed"].same and found["seed"].values == ["0", "3"]
    other = load_config(None, ["method=dino"])
    (method, *_) = (s for s in configuration.settings([one, other]) if s.name == "method")
    assert method.values == [one.method, "dino"] and not method.same
    assert "method" not in {s.name for s in configuration.settings([other])}


def test_confusion_is_scikit_learns(run):
    found = predictions.read_predictions(read_evaluated(run / "eval" / "knn" / "result.json"), [])
    matrix = predictions.confusion(found)
    truth, predicted = [p.label for p in found], [p.predicted for p in found]
    assert matrix.classes == ["class0", "class1", "class2"]
    np.testing.assert_array_equal(matrix.counts, confusion_matrix(truth, predicted, labels=matrix.classes))
    np.testing.assert_allclose(np.sum(matrix.shares, 1), 1)


def test_examples_are_the_most_probable_right_and_wrong(run):
    test = run.parent / "test"
    names = {f"class0/{n:03d}.png": str(test / f"class0/{n:03d}.png") for n in range(5)}
    predicted = ["class0", "class1", "class0", "class2", ""]
    found = [predictions.Prediction(n, "class0", s, p) for n, s, p in zip(names, predicted, (0.5, 0.6, 0.9, 0.7, 0.1))]
    shown = predictions.examples(found, names)
    assert [(p.caption, p.mark) for p in shown] == [
        ("✓ class0 90%", "right"), ("✓ class0 50%", "right"),
        ("✗ class2 70%", "wrong"), ("✗ class1 60%", "wrong"), ("✗ nothing 10%", "wrong"),
    ]  # fmt: skip
    assert shown[2].alt == "003.png: a class0, predicted as class2"


def test_reference_and_test_images_are_those_of_the_training(tmp_path):
    folder = make_folder(tmp_path / "images", per_class=10)
    words = [*TINY, f"data.path={folder}", "eval.max_images=6"]
    cfg = load_config(None, words)
    source, reference, test = open_images(Run(tmp_path, cfg))
    expected = monitor_sources(cfg, source, print)
    assert [reference.paths, test.paths] == [side.paths for side in expected] and len(reference) == 6
    source, reference, test = open_images(Run(tmp_path, load_config(None, [*words, "eval.every=0 steps"])))
    assert source is reference is test


@pytest.mark.parametrize("split", ["given", "20% held out, somewhere"])
def test_test_images_are_found_by_their_names(run, split):
    data = {"train": str(run.parent / "images"), "test": str(run.parent / "test"), "split": split}
    where = predictions.test_images(Evaluated(run, result("knn", "x", data=data)))
    folder = "test" if split == "given" else "images"
    assert where["class1/002.png"] == str(run.parent / folder / "class1" / "002.png")


def test_own_figures_stand_on_top_of_published_ones(tmp_path, depth):
    mine = str(tmp_path)
    results = [
        result("knn", mine, 0.5), result("linear", mine, 0.625), result("knn", "pixels", 0.25),
        result("depth", mine, 0.5, key="rmse"),
    ]  # fmt: skip
    run = Run(tmp_path, results=[Evaluated(tmp_path, one) for one in results])
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
    depths = by_title["A ViT-L distilled from a frozen ViT-g"]
    assert depths.own == 1 and depths.rows[0][depths.headings.index("depth, RMSE")].text == Depth.FIGURES[0].number(0.5)
    assert [table.own > 0 for table in published.published([run])] == [True] * 3 + [False] * 4


def test_a_column_of_certain_images_takes_figures_of_these_alone(tmp_path):
    tests = ("roxford5k", "rparis6k", "my/images")
    results = [result("retrieval", str(tmp_path), 0.25, data={"test": test}, key="map") for test in tests]
    run = Run(tmp_path, results=[Evaluated(tmp_path, one) for one in results])
    table = next(table for table in published.published([run]) if table.title.startswith("Retrieval"))
    rows = [dict(zip(table.headings, (cell.text for cell in row))) for row in table.rows]
    assert table.own == 2 and rows[0]["training"].endswith(", on roxford5k")
    assert [(row["Oxford medium"], row["Paris medium"]) for row in rows[:2]] == [("25.0", ""), ("", "25.0")]


def test_published_tables_are_whole():
    folder = published.files("dinolab.report") / "reference"
    for name, about in published.TABLES.items():
        with (folder / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows and all(None not in row and None not in row.values() for row in rows)
        assert about.name in rows[0]


def test_every_published_column_exists():
    """Those that the evaluations name for their figures."""
    folder = published.files("dinolab.report") / "reference"
    places = [place for one in EVALS.values() for figure in one.FIGURES for place in figure.published.split()]
    assert places
    for table, column in (place.split("@")[0].split(".") for place in places):
        with (folder / f"{table}.csv").open() as file:
            assert column in next(csv.reader(file))


def test_an_evaluation_that_measures_no_accuracy_shows_up_right(tmp_path, depth):
    """In tiles, table, verdict and commands, by nothing but its contract."""
    data = {"depths": "/data/depths", "train": "/data/train", "test_images": 50}
    mine = result(depth, str(tmp_path), 0.5, 0.4, 0.6, {"step": 3}, data, "rmse", bins=64, size=[224, 224])
    mine.figures["log"] = Measured(3.25)
    fresh = result(depth, "untrained", 2.5, 2.25, 2.75, {"untrained": "x"}, data, "rmse", bins=64)
    others = result("knn", "pixels", 0.75, 0.5, 1.0)
    run = Run(tmp_path, results=[Evaluated(tmp_path, one) for one in (fresh, mine, others)])
    rmse, log = Depth.FIGURES
    ((what, figure, remark),) = glance.tiles(run)
    assert (what, figure) == ("depth: RMSE", rmse.text(0.5))
    assert remark == f"{rmse.number(0.4)} to {rmse.number(0.6)}, 50 images, lower is better"
    table = evaluations.evaluations([("a", run, one) for one in run.results])
    rows = [dict(zip(table.headings, (cell.text for cell in row))) for row in table.rows]
    assert [row["encoder"] for row in rows] == [
        "pixels",
        "this run",
        "untrained",
    ]  # by evaluation; the lower RMSE first
    assert rows[1]["figure"] == f"RMSE {rmse.text(0.5)}" and rows[0]["figure"] == "accuracy 75.0%"
    assert (
        rows[1]["settings"] == "bins 64, size 224"
        and rows[1]["also"] == f"log10 error: {log.text(3.25)}, lower is better"
    )
    text = verdict(run)
    assert text.startswith(f"Its RMSE by depth is {rmse.text(0.5)} (95% interval ")
    assert f"Against the untrained network: better (−{rmse.number(2.0)} m, " in text
    assert (
        again.evaluation(run.results[1]) == f"dinolab eval depth {tmp_path} size=224 depths=/data/depths bins=64 seed=0"
    )


def test_parts_and_pictures_of_a_result_are_shown(tmp_path, depth):
    found = result(depth, "x", 0.5, key="rmse")
    found.parts = {"kitchen": {"rmse": 0.25, "log": 3.0}, "office": {"rmse": 0.75}}
    folder = tmp_path / "eval"
    (folder / PICTURES).mkdir(parents=True)
    Image.new("RGB", (1800, 90), "red").save(folder / PICTURES / "kitchen.png")
    run = Run(tmp_path, results=[Evaluated(folder, found)])
    ((table, pictures),) = details(run, photos=True)
    assert table.headings == ["part", "RMSE", "log10 error"]
    rmse, log = Depth.FIGURES
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["kitchen", rmse.text(0.25), log.text(3.0)],
        ["office", rmse.text(0.75), ""],
    ]
    assert [(one.caption, one.width, one.height) for one in pictures.rows[0]] == [("kitchen", 900, 45)]
    assert details(run, photos=False) == [(table, None)]


def test_evaluations_that_are_unknown_or_have_no_figure_are_shown_too(tmp_path):
    unknown = result("telepathy", "x", 0.4321, key="mind_map")
    run = Run(tmp_path, results=[Evaluated(tmp_path, unknown), Evaluated(tmp_path, result("knn", "y"))])
    table = evaluations.evaluations([("a", run, one) for one in run.results])
    rows = [dict(zip(table.headings, (cell.text for cell in row))) for row in table.rows]
    assert (rows[0]["encoder"], rows[0]["mind map"]) == ("y", "")
    assert (rows[1]["evaluation"], rows[1]["mind map"]) == ("telepathy", Figure("", "", unit="").text(0.4321))
    assert again.evaluation(run.results[0]) == ""


def test_benchmarks_of_any_shape():
    rows = [
        {"variant": "a", "images_per_s": 50.0, "odd": {"x": 1}},
        {"variant": "b", "images_per_s": 100.0},
        {"variant": "c", "note": "oom"},
    ]
    table = speed.benchmark_table({"rows": rows})
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


def test_panels_are_those_that_the_method_declares(tmp_path, monkeypatch):
    panels = (Panel("Mine", "queue", {"queue": "length"}, level="most", level_label="limit"),)
    monkeypatch.setitem(METHODS, "toy", SimpleNamespace(PANELS=panels))
    rows = [{"step": n, "queue": 5, "most": 9, "teacher_entropy": 1.0, "lr": 0.5} for n in range(3)]
    shown = curves.curves([Run(tmp_path, Config(method="toy"), metrics=rows)])
    assert {group: [c.title for c in made] for group, made in shown.items()} == {
        "Schedules": ["learning rate"],
        "Mine": ["queue"],
    }
    assert [label for label, _ in shown["Mine"][0].legend] == ["length", "limit"]


def test_short_numbers():
    assert [charts.short(v) for v in (0, 0.25, 12, 1500, 12000, 2.5e6, 1e-6, 5e-4)] == [
        "0", "0.25", "12", "1500", "12k", "2.5M", "1e-6", "5e-4",
    ]  # fmt: skip
