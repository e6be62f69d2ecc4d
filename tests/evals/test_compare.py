"""Several encoders side by side, on small folders of coloured squares."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinolab.errors import UserError
from dinolab.evals import EVALS
from dinolab.evals import compare as module
from dinolab.evals.compare import compare
from dinolab.evals.comparison import Comparison, Entry, Row, read_comparison
from dinolab.evals.comparison_table import cells, markdown, notes
from dinolab.evals.contenders import labels, untrained
from dinolab.evals.earlier import read_result
from dinolab.evals.plots import Point, draw_figures, draw_scaling
from dinolab.evals.result import Measured, Result
from dinolab.evals.throughput import throughput
from dinolab.features.pixels import PixelEncoder
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.weights.load import load, save_encoder
from tests.pictures import make_folder

PICTURES = ("accuracy.png", "scaling.png")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 10)
    monkeypatch.setattr("dinolab.evals.throughput.SECONDS", 0)


@pytest.fixture
def folders(tmp_path):
    train = make_folder(tmp_path / "train", per_class=10, classes=3, seed=0)
    return str(train), str(make_folder(tmp_path / "test", per_class=4, classes=3, seed=1))


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(5)  # not that of `untrained`
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    save_encoder(ViT(Model(dim=12, depth=2, heads=2, patch_size=4, init="scaled"), 16), folder, {"step": 3})
    return str(folder)


def test_all_encoders_by_all_protocols(folders, run, tmp_path):
    out = tmp_path / "out"
    options = {"evaluations": ["knn", "linear"], "size": 32, "cache": "none", "environment": {"x": 1}}
    found = compare(run, ["pixels", "untrained"], *folders, out, **options)
    assert json.loads((out / "all.json").read_text()) == json.loads(json.dumps(found.to_json()))
    assert read_comparison(out / "all.json").evaluations == ["knn", "linear"]
    assert [row.name for row in found.encoders] == ["mine", "pixels", "untrained"]
    for row in found.encoders:
        assert row.throughput["images_per_s"] > 0 and row.size == [32, 32]
        for protocol in ("knn", "linear"):
            alone = read_result(out / row.name / protocol / "result.json")
            assert row.results[protocol].result.figures == alone.figures
            assert alone.encoder["name"] == row.name
    assert found.encoders[1].results["knn"].result.main.value == 1
    table = (out / "table.md").read_text().splitlines()
    assert table[0] == "|  | knn, % | linear, % | images/s |"
    assert table[3].startswith("| pixels | 100.0 (100.0-100.0) | 100.0 (100.0-100.0) |")
    for name in PICTURES:
        picture = cv2.imread(str(out / name))
        assert min(picture.shape[:2]) > 400
        assert len(np.unique(picture @ [1, 256, 65536])) > 50


def test_what_fails_gets_its_reason_and_loses_nothing_else(folders, run, tmp_path, monkeypatch, caplog):
    def fail(protocol, *args, **options):
        if protocol == "logreg":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return evaluate(protocol, *args, **options)

    evaluate = module.run_evaluation
    monkeypatch.setattr(module, "run_evaluation", fail)
    against = ["nowhere", "timm:no_such_model", "pixels"]
    found = compare(run, against, *folders, tmp_path / "out", evaluations=["knn", "logreg"], size=32, cache="none")
    mine, nowhere, timm, pixels = found.encoders
    assert "nowhere" in nowhere.failure and "no_such_model" in timm.failure and not mine.failure
    assert pixels.results["knn"].result.main.value == 1 and pixels.results["logreg"] == Entry(failure="out of memory")
    written = notes(found)
    assert f"Failed: nowhere: {nowhere.failure}" in written and "Failed: pixels, logreg: out of memory" in written
    assert cells(found)[2] == ["nowhere", "-", "-", "-"]
    assert "timm:no_such_model" in caplog.text


def test_a_leak_is_reported_once(folders, tmp_path, caplog):
    shutil.copy(f"{folders[0]}/class0/000.png", f"{folders[1]}/class0/leak.png")
    options = {"evaluations": ["knn", "logreg"], "size": 16, "cache": "none"}
    for _ in range(2):
        caplog.clear()
        compare("pixels", [], *folders, tmp_path / str(len(list(tmp_path.iterdir()))), **options)
        assert caplog.text.count("LEAK") == 1


def test_encoders_themselves_are_compared_and_nothing_is_written(folders, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    other = PixelEncoder()
    against = [other, load(run), "untrained", "pixels", other]
    found = compare(load(run), against, *folders, evaluations=["knn"], size=32, cache="none")
    names = ["BackboneEncoder 1", "PixelEncoder", "BackboneEncoder 2", "untrained", "pixels"]
    assert [row.name for row in found.encoders] == [row.encoder for row in found.encoders] == names
    results = {row.name: row.results["knn"].result for row in found.encoders}
    assert results["BackboneEncoder 1"].main == results["BackboneEncoder 2"].main
    assert results["PixelEncoder"].main.value == results["pixels"].main.value == 1
    assert sorted(tmp_path.rglob("*")) == before
    again = compare(
        load(run), [other], *map(Path, folders), tmp_path / "out", evaluations=["knn"], size=32, cache="none"
    )
    assert json.loads((tmp_path / "out" / "all.json").read_text()) == json.loads(json.dumps(again.to_json()))
    assert (tmp_path / "out" / "PixelEncoder" / "knn" / "result.json").is_file()


def test_nothing_but_failures_is_an_error(folders, tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*neither"):
        compare("nowhere", ["neither"], *folders, tmp_path / "out", cache="none")


def test_a_split_that_cannot_be_drawn_is_one_error_of_the_whole_comparison(tmp_path, caplog):
    data = make_folder(tmp_path / "data", per_class=2)
    for file in data.glob("*/*.png"):
        cv2.imwrite(str(file), np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(UserError, match=f"^{data}: no images can be held out"):
        compare("pixels", ["untrained"], str(data), None, tmp_path / "out", evaluations=["knn"], cache="none")
    assert not caplog.text and not (tmp_path / "out").exists()


def test_results_that_are_there_are_not_computed_again(folders, run, tmp_path, monkeypatch):
    done = []
    evaluate = module.run_evaluation

    def noted(protocol, *args, **options):
        done.append((options["called"], protocol))
        return evaluate(protocol, *args, **options)

    monkeypatch.setattr(module, "run_evaluation", noted)
    for picture in ("draw_figures", "draw_scaling"):  # drawn in other tests
        monkeypatch.setattr(f"dinolab.evals.compare.{picture}", lambda *_: None)
    monkeypatch.setattr("dinolab.evals.results.draw_confusion", lambda *args: args[-1].touch())
    options = {"evaluations": ["knn", "logreg"], "size": 16, "cache": "none"}

    def again(encoder=run, against=("pixels",), train=folders[0], **changed):
        done.clear()
        found = compare(encoder, against, train, folders[1], tmp_path / "out", **options | changed)
        return found, list(done)

    first, all_four = again()
    assert len(all_four) == 4
    second, none = again()
    results = [without_speed(found) for found in (first, second)]
    assert none == [] and results[0] == results[1]
    assert again(against=["pixels", "untrained"])[1] == [("untrained", "knn"), ("untrained", "logreg")]
    (tmp_path / "out" / "mine" / "knn" / "result.json").unlink()
    assert again()[1] == [("mine", "knn")]
    assert len(again(seed=1)[1]) == 4
    again()
    weights = load(run)
    weights.vit.cls_token.data += 1
    save_encoder(weights.vit, tmp_path / "runs" / "mine", {})
    assert again()[1] == [("mine", "knn"), ("mine", "logreg")]
    make_folder(tmp_path / "train", per_class=11, classes=3)
    assert len(again()[1]) == 4


def test_untrained_is_the_architecture_with_other_weights(run):
    fresh, trained = untrained(run, seed=0), load(run)
    assert (
        isinstance(fresh, BackboneEncoder)
        and fresh.vit.cfg == trained.vit.cfg
        and fresh.image_size == trained.image_size
    )
    assert not torch.equal(fresh.vit.patch_embed.proj.weight, trained.vit.patch_embed.proj.weight)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    state = torch.get_rng_state()
    again, other = untrained(run, seed=0), untrained(run, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again(images).cls, fresh(images).cls) and not torch.equal(other(images).cls, fresh(images).cls)


def test_untrained_of_what_is_not_dinolab_s_says_so(folders, tmp_path):
    found = compare("pixels", ["untrained"], *folders, tmp_path / "out", evaluations=["knn"], size=32, cache="none")
    assert "dinolab cannot build that of pixels anew" in found.encoders[1].failure


def test_images_without_labels_are_refused(folders, tmp_path):
    with pytest.raises(UserError, match="no labels"):
        compare("pixels", [], folders[0], f"{folders[1]}/class0", tmp_path / "out", cache="none")


def test_throughput_is_of_the_bare_forward():
    calls = []

    class Counted(BackboneEncoder):
        def forward(self, images):
            calls.append((images.shape, torch.is_inference_mode_enabled(), self.training))
            return super().forward(images)

    encoder = Counted(ViT(Model(dim=12, depth=1, heads=2, patch_size=4), 16)).train()
    found = throughput(encoder, (16, 24), torch.device("cpu"))
    assert set(calls) == {((8, 3, 16, 24), True, False)} and len(calls) == found["repeats"] + 1
    assert found["batch_size"] == 8 and found["repeats"] >= 5 and found["device"].startswith("cpu (")
    assert encoder.training


def test_names_are_as_short_as_tells_them_apart(tmp_path):
    for name in ("a/run", "b/run", "other"):
        (tmp_path / name).mkdir(parents=True)
    given = [str(tmp_path / name) for name in ("a/run", "b/run", "other")] + ["timm:a/b", "pixels"]
    assert labels(given) == ["a/run", "b/run", "other", "timm:a/b", "pixels"]


def without_speed(comparison):
    rows = json.loads(json.dumps(comparison.to_json()["encoders"]))
    return [row["results"] for row in rows]


def make_rows(**results):
    at = {"images_per_s": 30.0, "batch_size": 8, "device": "cpu", "precision": "fp32"}
    entries = {name: Entry(result) for name, result in results.items()}
    return [Row("$a|b^", "x", entries, [16, 16], throughput=at), Row("c", "c", failure="no")]


def made_up(evaluation, value, interval, **facts):
    return Result(evaluation, {"name": "x"}, {}, {}, {"accuracy": Measured(value, interval)}, **facts)


def test_the_table_gives_seeds_and_escapes_names():
    over = {"seed": [0, 1], "value": [0.5, 0.6], "mean": 0.55, "std": 0.0125}
    rows = make_rows(knn=made_up("knn", 0.5, (0.4, 0.6), seeds=over))
    found = Comparison({"train": "x", "test": None}, {"evaluations": ["knn", "linear"], "seeds": 2}, None, rows)
    assert cells(found)[1] == ["$a|b^", "50.0 (40.0-60.0); 55.0 ± 1.2", "-", "30"]
    assert "| $a\\|b^ |" in markdown(found) and "- Failed: c: no" in markdown(found)
    assert "over 2 seeds" in notes(found)[0]


def test_a_column_more():
    found = Comparison({"train": "x", "test": "y"}, {"evaluations": ["knn"], "seeds": 1}, None, make_rows())
    tuned = [made_up("finetune", value, None) for value in (0.5, 0.25)]
    for result in tuned:
        result.settings["epochs"] = 30
    more = found.extended("$a|b^", tuned[0]).extended("supervised", tuned[1])
    assert [line[2] for line in cells(more)] == ["finetune, %", "50.0", "-", "25.0"]
    more = more.extended("supervised", made_up("knn", 0.75, None)).extended(
        "x", tuned[1]
    )  # "x" is how the first was named
    assert [line[:3] for line in cells(more)[1:]] == [
        ["$a|b^", "-", "50.0"],
        ["c", "-", "-"],
        ["supervised", "75.0", "25.0"],
    ]
    assert "epochs: $a|b^ 30, supervised 30." in " ".join(notes(more)) and found.evaluations == ["knn"]


def test_pictures_leave_out_what_is_missing(tmp_path):
    evaluations = {name: EVALS[name] for name in ("knn", "linear")}
    draw_scaling(make_rows(), evaluations, "t", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    rows = make_rows(linear=made_up("linear", 0.0, (0.0, 0.0)))
    draw_figures(rows, evaluations, "$title", tmp_path / "bars.png")
    draw_scaling(rows, evaluations, "$title", tmp_path / "points.png", lambda figure: [Point(2e7, None, 77.0)])
    assert min(cv2.imread(str(tmp_path / "bars.png")).shape[:2]) > 200
    assert min(cv2.imread(str(tmp_path / "points.png")).shape[:2]) > 400


def test_a_bug_is_no_row_of_the_table(folders, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(module, "run_evaluation", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        compare("pixels", [], *folders, evaluations=["knn"], size=16, cache="none")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"encoders": [3]}', '{"version": 2, "encoders": [{"name": 1}]}'])
def test_a_damaged_comparison_counts_as_nothing_done(folders, tmp_path, content):
    (tmp_path / "all.json").write_text(content)
    found = compare("pixels", [], *folders, tmp_path, evaluations=["knn"], size=16, cache="none")
    assert found.encoders[0].results["knn"].result.main.value == 1
