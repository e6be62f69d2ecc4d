"""The table of planted results, and the published figures beside them."""

import json

import numpy as np
import pytest

from dinolab.grid import findings
from dinolab.grid.read import read_grid
from dinolab.grid.table import result_table, write_tables
from dinolab.grid.task import Record, make_tasks
from tests.grid.parts import WORDS, write


def plant(task, right: list[bool], steps: int, lines: list[dict]) -> None:
    """What a finished run leaves."""
    folder, evaluation = task.folder, task.result("knn").parent
    evaluation.mkdir(parents=True)
    folder.card.write_text(json.dumps({"info": {"step": steps}}))
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    predicted = (f"{n}.png,a,{'a' if is_right else 'b'},1.0\n" for n, is_right in enumerate(right))
    (evaluation / "predictions.csv").write_text("filename,label,predicted,probability\n" + "".join(predicted))
    (evaluation / "result.json").write_text("{}")
    test = task.cfg.eval.test
    task.write_record(Record("", steps, 100.0 + task.seed, 2 * 10**9, {"train": task.cfg.data.path, "test": test}))


def line(step: int, marginal_entropy: float) -> dict:
    figures = {"log_k": 5.0, "kl": 1.0, "teacher_entropy": 1.0, "marginal_entropy": marginal_entropy}
    return {"step": step, "loss": 2.0, "images_per_s": 50.0 + step % 2, **figures}


@pytest.fixture
def planted(tmp_path):
    """A grid of two rows with two seeds; the second row collapses with seed 1."""
    grid = read_grid(write(tmp_path))
    tasks = make_tasks(grid, [*WORDS, "data.path=train", "eval.test=test"], "", 2, tmp_path)
    rng = np.random.default_rng(0)
    right = {task.name: rng.random(200) < (0.8 if task.row.name == "plain" else 0.3) for task in tasks}
    for task in tasks:
        collapses = task.name == "no crops, seed 1"
        plant(
            task,
            right[task.name].tolist(),
            240,
            [line(n, 0.0 if collapses and n >= 120 else 4.0) for n in range(20, 241, 20)],
        )
    return grid, tasks, right


def test_the_table_of_planted_results(planted, tmp_path):
    grid, tasks, right = planted
    plain, crops = findings.collect(grid, tasks)
    mean = {
        name: (right[f"{name}, seed 0"].mean() + right[f"{name}, seed 1"].mean()) / 2 for name in ("plain", "no crops")
    }
    base, found = plain.results["knn"], crops.results["knn"]
    assert base.difference is None
    assert found.mean == pytest.approx(mean["no crops"])
    assert found.std == pytest.approx(
        np.std([right["no crops, seed 0"].mean(), right["no crops, seed 1"].mean()], ddof=1)
    )
    assert found.difference == pytest.approx(mean["no crops"] - mean["plain"])
    each = (
        right["no crops, seed 0"] * 1.0 + right["no crops, seed 1"] - right["plain, seed 0"] - right["plain, seed 1"]
    ) / 2
    half = 1.96 * each.std() / np.sqrt(len(each))
    low, high = found.difference_interval
    assert (low, high) == pytest.approx((each.mean() - half, each.mean() + half), abs=0.01)
    assert (crops.steps, crops.images, crops.images_per_s, crops.peak_memory) == (240, 1920, 50.0, 2 * 10**9)
    assert crops.cpu_seconds == 100.5
    assert crops.remarks == ["collapse since step 120 (seed 1)"]
    assert (base.published, found.published) == (72.8, 67.9)

    written = write_tables(grid, [plain, crops], "", ["seed=0"], tmp_path)
    assert [file.suffix for file in written] == [".md", ".csv", ".json", ".html"]
    shown = written[0].read_text()
    assert "| 67.9 (-4.9) |" in shown and "| 72.8 |" in shown
    assert '"collapse": all images go to one prototype.' in shown
    assert written[1].read_text().count("\n") == 3
    assert json.loads(written[2].read_text())["rows"][1]["words"] == ["views.locals=0"]
    assert "67.9 (-4.9)</td>" in written[3].read_text()


def test_the_table_says_what_is_missing_or_unlike(planted, tmp_path):
    grid, tasks, _ = planted
    tasks[0].write_record(
        Record("NaN: at step 5 the loss is nan. Remedy, in a new run.dir: a lower optim.lr", 100)
    )  # plain, seed 0
    tasks[1].folder.card.write_text(json.dumps({"info": {"step": 480}}))
    plain, crops = findings.collect(grid, tasks)
    assert plain.remarks == ["failed: NaN: at step 5 the loss is nan (seed 0)"]
    assert list(plain.results["knn"].values) == [1]
    assert plain.cpu_seconds == 101.0  # that of the whole run alone
    seed1 = findings.read_right(tasks[3], "knn"), findings.read_right(tasks[2], "knn")
    assert crops.results["knn"].difference == pytest.approx(np.mean([seed1[0][n] - seed1[1][n] for n in seed1[0]]))
    assert findings.unequal([plain, crops], "").endswith("are not comparable: plain 1,920, no crops 3,840.")
    assert findings.unequal([plain, crops], "6min").startswith("Each run trained for about 6min")
    assert "(seed 0)" in result_table(grid, [plain, crops]).rows[0][-1].text


def test_runs_on_other_images_are_not_compared():
    assert findings.compare({0: {"a.png": True}}, {0: {"b.png": True}}).difference is None


def test_a_row_like_the_first_one_is_named(tmp_path):
    grid = read_grid(write(tmp_path))
    _, crops = findings.collect(grid, make_tasks(grid, [*WORDS, "data.path=train", "views.locals=0"], "", 1, tmp_path))
    assert crops.remarks == ["same options as plain", "not finished"]


@pytest.mark.parametrize(
    ("size", "heading", "barlow"), [("small", "published, ViT-S", None), ("resnet18", "published, RN50", 66.0)]
)
def test_published_figures_are_of_the_same_kind_of_network(size, heading, barlow, tmp_path):
    """Table 2 has DINO's k-NN with a ViT-S (74.5) and with a ResNet-50 (67.5), and Barlow Twins' with a ResNet-50 alone."""
    grid = read_grid("methods")
    tasks = make_tasks(grid, ["data.path=photos", f"model.size={size}"], "", 1, tmp_path)
    found = {one.row.name: one for one in findings.collect(grid, tasks)}
    assert found["DINO"].results["knn"].published == (74.5 if size == "small" else 67.5)
    assert found["Barlow Twins"].results["knn"].published == barlow
    table = result_table(grid, list(found.values()))
    assert table.headings.count(heading) == 2
    assert sum(one.results["knn"].published is not None for one in found.values()) == (5 if size == "small" else 10)


def test_a_row_may_name_the_published_network(tmp_path):
    text = "{published: imagenet, rows: {a: {published: {method: DINO, arch: ViT-B/16}}, b: {published: {method: SCLRv2}}}}"
    grid = read_grid(write(tmp_path, text))
    a, b = findings.collect(grid, make_tasks(grid, ["data.path=photos"], "", 1, tmp_path))
    assert (a.results["knn"].published, a.published_network) == (76.1, "ViT-B/16")
    assert (b.results["knn"].published, b.published_network) == (None, "")
