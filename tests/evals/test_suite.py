"""`eval all suite=`: what is found under a root, what is missing, going on, and published rows beside ours."""

import pytest

import dinolab
from dinolab import cli
from dinolab.errors import UserError
from dinolab.evals import EVALS, suite
from dinolab.evals.comparison import read_comparison
from dinolab.evals.contract import Finds, Task
from dinolab.report.published import beside, points
from tests.pictures import make_folder
from tests.toy.evaluation import NearestMean


class TwoTasks(NearestMean):
    """A new evaluation takes part by declaring suites and what it finds, in its own file."""

    suites = ("dino",)

    def find(self, root):
        sides = {"train": str(root / "imagenet" / "train"), "test": [str(root / "imagenet" / "val")]}
        return Finds(
            [Task(sides | {"power": power}, 10, f"p{power}") for power in (1.0, 2.0)], ["Toys: toys/; from a shop"]
        )


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 10)
    monkeypatch.setattr("dinolab.evals.throughput.SECONDS", 0)
    monkeypatch.setitem(EVALS, "toy", TwoTasks())
    folder = tmp_path / "sets"
    make_folder(folder / "imagenet" / "train", per_class=10, classes=3, seed=0)
    make_folder(folder / "imagenet" / "val", per_class=4, classes=3, seed=1)
    return folder


def test_a_suite_runs_what_is_there_and_goes_on_where_it_stopped(root, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    words = [
        "eval",
        "all",
        "pixels",
        "suite=dino",
        f"root={root}",
        f"out={out}",
        "size=32",
        "cache=none",
        "device=cpu",
        "workers=0",
    ]
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    said = shown.out + shown.err
    assert "missing: Toys: toys/; from a shop" in said and "images/s take about" in said
    assert "Published" not in said and "DINO, arXiv 2104.14294, table 2" in said  # with published rows beside ours
    found = read_comparison(out / "all.json")
    assert {"linear", "knn", "toy:p1.0", "toy:p2.0"} <= {*found.evaluations} and "robustness" not in found.evaluations
    results = found.encoders[0].results
    assert results["knn"].result.main.value == 1 and results["toy:p1.0"].result.settings["power"] == 1
    assert (out / "scaling.png").is_file() and "Missing: Toys" in (out / "table.md").read_text()

    done = []
    real = suite.prepare
    monkeypatch.setattr(suite, "prepare", lambda name, *args, **how: watched(real(name, *args, **how), done))
    (out / "pixels" / "knn" / "result.json").unlink()
    assert cli.main(words) == 0 and done == ["k-NN"]  # all others are kept


def watched(ready, done):
    class Watched:
        data = ready.data

        def run(self):
            done.append(ready.evaluation.title)
            return ready.run()

    return Watched()


@pytest.mark.parametrize(("name", "folder", "files"), [
    ("davis", "DAVIS-2017", ["JPEGImages/480p/a/0.jpg"]),
    ("retrieval", "roxford5k", ["gnd_roxford5k.json", "jpg/a.jpg"]),
    ("copies", "Copydays", ["original/0.jpg"]),
    ("segmentation", "CamVid", [f"{side}{kind}/a.png" for side in ("train", "test") for kind in ("", "annot")]),
    ("depth", "7scenes", ["seq-01/frame-0.color.png", "seq-01/frame-0.depth.png", "TrainSplit.txt", "TestSplit.txt"]),
])  # fmt: skip
def test_evaluations_find_their_data_sets(name, folder, files, tmp_path):
    for file in files:
        place = tmp_path / folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("sequence1\n" if file.endswith("Split.txt") else "")
    found = EVALS[name].find(tmp_path)
    assert [task.options for task in found.tasks] == [{"data": str(tmp_path / folder)}]
    assert found.tasks[0].images == sum(file.endswith((".jpg", ".png")) for file in files)
    (tmp_path / folder).rename(tmp_path / "other")
    nothing = EVALS[name].find(tmp_path)
    assert nothing.tasks == [] and all("from http" in one for one in nothing.missing)


def test_published_rows_and_points(root):
    options = {"suite": "dino", "root": str(root), "evaluations": ["knn"], "size": 32, "cache": "none"}
    found = dinolab.compare("pixels", [], **options)
    table = next(one for one in beside(found) if one.title == "ImageNet-1k")
    assert table.own == 1 and "100.0" in [cell.text for cell in table.rows[0]] and len(table.rows) > 20
    grey = points(EVALS["knn"].main)
    assert max(point.value for point in grey) == 79.8 and all(point.parameters > 1e6 for point in grey)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"suite": "dino"}, "belong together"),
        ({"root": "ROOT"}, "belong together"),
        ({"suite": "dino", "root": "ROOT", "train": "x"}, "leave them out"),
        ({"suite": "dino", "root": "ROOT/none"}, "no such folder"),
        ({"suite": "dino", "root": "ROOT/imagenet/val", "evaluations": ["knn"]}, "nothing that suite=dino needs"),
        ({}, "train is not set"),
    ],
)
def test_bad_input_is_one_line(root, options, said):
    filled = {
        key: value.replace("ROOT", str(root)) if isinstance(value, str) else value for key, value in options.items()
    }
    with pytest.raises(UserError, match=said) as error:
        dinolab.compare("pixels", [], **filled)
    assert "\n" not in str(error.value)
