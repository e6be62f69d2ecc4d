"""Whole evaluations on small folders of coloured squares, in Python and on the command line."""

import csv
import io
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

import dinolab
from dinolab.data.decode import read_image
from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.evals import EVALS
from dinolab.evals.earlier import read_result
from dinolab.evals.results import table
from dinolab.features.pixels import PixelEncoder
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.visuals.attention import attention_sheet
from dinolab.visuals.pca import pca_sheet
from dinolab.weights.load import save_encoder
from tests.pictures import make_folder


@pytest.fixture
def folders(tmp_path):
    train = make_folder(tmp_path / "train", per_class=10, classes=3, seed=0)
    return str(train), str(make_folder(tmp_path / "test", per_class=4, classes=3, seed=1))


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "run"
    folder.mkdir()
    save_encoder(ViT(Model(dim=12, depth=2, heads=2, patch_size=4, init="scaled"), 16), folder, {"step": 3})
    return folder


@pytest.mark.parametrize("protocol", ["knn", "logreg", "linear"])
def test_every_protocol_tells_colours_apart_and_writes_its_files(folders, tmp_path, protocol, monkeypatch):
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 30)
    found = dinolab.evaluate(
        protocol, "pixels", *folders, tmp_path / "out", size=32, cache="none", environment={"x": 1}
    )
    assert found.main.value == 1 and found.leaks == [] and list(found.figures) == ["accuracy"]
    assert {name: one["images"] for name, one in found.per_class.items()} == {"class0": 4, "class1": 4, "class2": 4}
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == json.loads(json.dumps(found.to_json()))
    assert found.environment == {"x": 1} and found.settings["size"] == (32, 32)
    assert (tmp_path / "out" / "confusion.png").stat().st_size > 1000
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert [row["filename"] for row in rows[:2]] == ["class0/000.png", "class0/001.png"]
    assert all(row["label"] == row["predicted"] == row["filename"].split("/")[0] for row in rows) and len(rows) == 12
    assert all(0.3 < float(row["probability"]) <= 1 for row in rows)


def test_k_is_told_side_by_side_and_one_of_them_counts(folders):
    found = dinolab.evaluate("knn", "pixels", *folders, size=32, cache="none", k=1)
    assert list(found.other) == ["k = 10", "k = 20", "k = 100", "k = 200"]
    assert found.settings["k"] == 1


def test_few_shot_accuracies_have_mean_and_deviation(folders, tmp_path):
    options = {"size": 32, "cache": "none", "temperature": 0.5}
    found = dinolab.evaluate("knn", "pixels", *folders, tmp_path, shots=[1, 10], tries=3, k=1, **options)
    assert list(found.tries) == ["1 of each class", "10 of each class"]
    few, all_images = found.tries.values()
    assert len(few["value"]) == 3 and 0.3 < few["mean"] <= 1
    assert all_images["value"] == 3 * [found.main.value] and all_images["std"] == 0
    assert found.settings["shots"] == [1, 10] and found.settings["temperature"] == 0.5
    assert read_result(tmp_path / "result.json").tries == found.tries
    assert "10 of each class, mean of 3 draws" in shown(found)


def shown(result):
    """The table in the terminal."""
    console = Console(width=200, file=io.StringIO())
    console.print(table(result, EVALS[result.evaluation]))
    return console.file.getvalue()


def test_top_5_accuracy_with_more_than_five_classes(tmp_path):
    train, test = (str(make_folder(tmp_path / name, per_class=3, classes=6)) for name in ("train", "test"))
    found = dinolab.evaluate("knn", "pixels", train, test, size=16, cache="none", k=18, temperature=100)
    assert list(found.figures)[:2] == ["accuracy", "top5"]
    assert found.main.value <= found.figures["top5"].value <= 1 and found.figures["top5"].interval
    assert "top-5 accuracy" in shown(found)


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_several_test_sets_are_as_one_by_one(folders, tmp_path, protocol, monkeypatch):
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 3)  # few, so that something is wrong
    train, test = folders
    other = tmp_path / "other"
    shutil.copytree(test, other)
    shutil.move(other / "class0", other / "new")  # a class that only this set has, and with it other numbers of classes
    (other / "class1" / "000.png").write_bytes(b"no image")
    how = {"size": 32, "cache": "none", "seeds": 2}
    first = dinolab.evaluate(protocol, "pixels", train, [test, other], tmp_path / "out", **how)
    second = first.tests[0]
    for found, data, place in ((first, test, "."), (second, other, "other")):
        alone = dinolab.evaluate(protocol, "pixels", train, data, tmp_path / "alone", **how)
        for fact in ("figures", "per_class", "data", "other", "seeds", "leaks"):
            assert getattr(found, fact) == getattr(alone, fact)
        for file in ("predictions.csv", "confusion.png"):
            assert (tmp_path / "out" / place / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
    assert read_result(tmp_path / "out" / "result.json").tests[0].figures == second.figures
    assert second.data["test_images"] == 11 and second.main.value < 1
    assert f"{second.main.value:.1%} (" in shown(first).split(str(other))[1]
    with pytest.raises(UserError, match=r"test=.*one set of test images"):
        dinolab.compare("pixels", [], train, [test, str(other)], cache="none")


@pytest.mark.parametrize(
    ("protocol", "options"),
    [("linear", {}), ("linear-dino", {"epochs": 2, "lr": 0.1}), ("logreg", {"tokens": "both"}), ("logreg", {"tokens": "patches"})],
)  # fmt: skip
def test_the_saved_layer_gives_the_predictions(folders, run, tmp_path, protocol, options, monkeypatch):
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 10)
    dinolab.evaluate(protocol, run, *folders, tmp_path / "out", size="24x16", precision="fp32", cache="none", **options)
    layer, encoder = dinolab.load_layer(tmp_path / "out"), dinolab.load(run)
    assert layer.size == (24, 16) and layer.precision == "fp32" and layer.encoder["name"] == str(run)
    source = open_source(folders[1])
    images = torch.stack([torch.from_numpy(eval_view(read_image(path), layer.size)) for path in source.paths])
    probability, predicted = layer.predict(encoder, images).max(1)
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert [row["predicted"] for row in rows] == [layer.classes[c] for c in predicted]
    assert [float(row["probability"]) for row in rows] == pytest.approx(probability.tolist(), abs=2e-6)
    dinolab.evaluate("knn", run, *folders, tmp_path / "out", cache="none")  # which has none
    with pytest.raises(UserError, match=r"layer\.safetensors: no such file"):
        dinolab.load_layer(tmp_path / "out")


def test_a_file_that_is_no_layer_is_refused(run):
    with pytest.raises(UserError, match=r"model\.safetensors: not a layer of dinolab's .*repeat"):
        dinolab.load_layer(run / "model.safetensors")


def test_the_accuracy_is_that_of_knn_while_training(folders, run):
    from dinolab.evals import knn

    encoder = dinolab.load(run)
    train, test = (open_source(path) for path in folders)
    for k in (1, 10, 20):
        alone = dinolab.evaluate("knn", encoder, train, test, k=k, cache="none")
        assert alone.main.value == knn.monitor(encoder, train, test, 16, k)["knn"]


def test_identical_files_in_both_sets_are_counted_and_left_out_of_one_figure(folders, tmp_path, caplog):
    train, test = folders
    shutil.copy(f"{train}/class1/000.png", f"{test}/class0/000.png")  # whose label is wrong, so accuracy falls with it
    shutil.copy(f"{train}/class2/003.png", f"{test}/class2/001.png")
    found = dinolab.evaluate("knn", "pixels", train, test, tmp_path / "out", size=32, cache="none")
    assert found.leaks == [["class0/000.png", "class1/000.png"], ["class2/001.png", "class2/003.png"]]
    assert found.main.value == pytest.approx(11 / 12) and found.figures["without_leaks"].value == 1
    assert "LEAK: 2 of 12" in caplog.text


def make_unlabelled(folder, test):
    """As Human Action Recognition has it: test/, and a CSV that lists it in an order of its own."""
    (folder / "test").mkdir(parents=True)
    for c in range(3):
        shutil.copy(f"{test}/class{c}/000.png", folder / "test" / f"Image_{c}.png")
    (folder / "Testing_set.csv").write_text("filename\nImage_2.png\nImage_0.png\nImage_1.png\n")
    return str(folder / "Testing_set.csv")


def test_a_test_set_without_labels_gets_predictions_as_its_submission_wants_them(folders, tmp_path):
    train, test = folders
    unlabelled, out = make_unlabelled(tmp_path / "har", test), tmp_path / "out"
    options = {"size": 32, "cache": "none"}
    dinolab.evaluate(
        "knn", "pixels", train, test, out, **options
    )  # whose files must not be taken for those of the next
    found = dinolab.evaluate("logreg", "pixels", train, unlabelled, out, **options)
    assert found.figures == {} and found.main is None
    assert sorted(file.name for file in out.iterdir()) == ["layer.safetensors", "predictions.csv", "result.json"]
    assert read_result(out / "result.json").evaluation == "logreg"
    expected = "filename,label\nImage_2.png,class2\nImage_0.png,class0\nImage_1.png,class1\n"
    assert (out / "predictions.csv").read_text() == expected


def test_a_submission_has_a_line_for_what_cannot_be_read_too(folders, tmp_path):
    unlabelled = make_unlabelled(tmp_path / "har", folders[1])
    (tmp_path / "har" / "test" / "Image_0.png").write_bytes(b"no image")
    dinolab.evaluate("knn", "pixels", folders[0], unlabelled, tmp_path / "out", size=32, cache="none")
    expected = "filename,label\nImage_2.png,class2\nImage_0.png,\nImage_1.png,class1\n"
    assert (tmp_path / "out" / "predictions.csv").read_text() == expected


def test_a_class_that_train_lacks_counts_as_wrong(folders, tmp_path, caplog):
    train, test = folders
    shutil.move(f"{test}/class0", f"{test}/another")
    found = dinolab.evaluate("logreg", "pixels", train, test, tmp_path, size=32, cache="none")
    assert found.main.value == pytest.approx(8 / 12)
    assert found.per_class["another"] == {"accuracy": 0.0, "images": 4}
    assert "another" in caplog.text
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert {row["predicted"] for row in rows if row["label"] == "another"} == {"class0"}


def test_without_a_test_set_a_fifth_is_held_out_the_same_for_every_protocol(folders, tmp_path):
    test_files = []
    for protocol in ("knn", "logreg"):
        found = dinolab.evaluate(protocol, "pixels", folders[0], out=tmp_path / protocol, size=32, cache="none")
        data = found.data
        assert (data["train_images"], data["test_images"]) == (24, 6)
        assert data["split"] == f"20% held out, {folders[0]}.split-0.json"
        test_files.append([row["filename"] for row in csv.DictReader((tmp_path / protocol / "predictions.csv").open())])
    assert test_files[0] == test_files[1] and len(test_files[0]) == 6
    assert test_files[0] == sorted(json.loads((tmp_path / "train.split-0.json").read_text())["test"])


def test_several_seeds_draw_several_splits(folders, tmp_path):
    found = dinolab.evaluate("knn", "pixels", folders[0], out=tmp_path / "out", size=32, cache="none", seed=1, seeds=3)
    over = json.loads((tmp_path / "out" / "result.json").read_text())["seeds"]
    assert over == found.seeds and over["seed"] == [1, 2, 3]
    assert over["value"][0] == found.main.value
    for seed, accuracy in zip(over["seed"], over["value"]):
        assert dinolab.evaluate("knn", "pixels", folders[0], size=32, cache="none", seed=seed).main.value == accuracy
    assert len(list(tmp_path.glob("train.split-*.json"))) == 3


def test_several_seeds_of_a_protocol_that_draws_and_of_one_that_does_not(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 3)  # few, so that seeds differ
    options = {"size": 32, "cache": tmp_path / "kept"}
    found = dinolab.evaluate("linear", "pixels", *folders, seeds=2, **options)
    alone = [dinolab.evaluate("linear", "pixels", *folders, seed=seed, **options).main.value for seed in (0, 1)]
    assert found.seeds["value"] == alone
    assert dinolab.evaluate("knn", "pixels", *folders, seeds=2, **options).seeds is None


def test_poisoned_test_labels_change_no_prediction(folders, tmp_path, run, monkeypatch):
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 10)
    train, test = (open_source(path) for path in folders)
    poisoned = Source("poisoned", test.paths, (test.labels + 1) % 3, test.classes)
    for protocol in ("knn", "logreg", "linear"):
        written = []
        for labelled in (test, poisoned):
            found = dinolab.evaluate(protocol, dinolab.load(run), train, labelled, tmp_path, cache="none")
            rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
            written.append((found.settings, [(row["filename"], row["predicted"], row["probability"]) for row in rows]))
        assert written[0] == written[1]


def test_features_that_are_not_finite_are_an_error(folders, run, tmp_path):
    encoder = dinolab.load(run)
    with torch.no_grad():
        encoder.vit.cls_token[..., 3] = float("nan")
    for cache in ("none", str(tmp_path)):  # also where they come from the cache
        with pytest.raises(UserError, match=r"features of .*class0/000\.png .*its weight backbone.cls_token"):
            dinolab.evaluate("knn", encoder, *folders, cache=cache)
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    for picture in (attention_sheet, pca_sheet):
        with pytest.raises(UserError, match="are not finite numbers"):
            picture(encoder, [image], tmp_path / "picture.png")


def test_tokens_and_blocks_are_what_the_features_are_made_of(folders, run):
    encoder = dinolab.load(run)
    widths = {}
    for tokens, blocks in (("cls", 1), ("patches", 1), ("both", 2)):
        found = dinolab.evaluate("knn", encoder, *folders, cache="none", tokens=tokens, blocks=blocks)
        widths[tokens] = (found.settings["tokens"], found.settings["blocks"])
    assert widths == {"cls": ("cls", 1), "patches": ("patches", 1), "both": ("both", 2)}


def test_folders_may_be_paths(folders):
    train, test = map(Path, folders)
    found = dinolab.evaluate("knn", "pixels", train, test, size=32, cache="none")
    assert found.main.value == 1 and found.data["train"] == str(train)
    assert len(dinolab.embed("pixels", test, size=32, cache="none")["cls"]) == 12


class Extracted(Exception):
    """Raised in place of extraction, with the device on which features are to be computed."""


def test_an_encoder_stays_where_it_is_unless_a_device_is_named(folders, run, monkeypatch):
    def stand_in(*args, **options):
        raise Extracted(options["device"])

    monkeypatch.setattr("dinolab.features.inputs.extract", stand_in)
    encoder = dinolab.load(run).to("meta")
    for verb in (dinolab.embed, partial(dinolab.evaluate, "knn")):
        with pytest.raises(Extracted, match="meta"):
            verb(encoder, folders[0])
        for named in (run, "pixels", PixelEncoder()):
            with pytest.raises(Extracted, match="cpu"):
                verb(named, folders[0])
        with pytest.raises(Extracted, match=r"cpu|cuda|mps"):
            verb(encoder, folders[0], device="auto")


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_in_python_too(device, folders):
    for verb in (dinolab.embed, partial(dinolab.evaluate, "knn"), partial(dinolab.compare, against=[])):
        with pytest.raises(UserError, match=f"^device={device}: not available here"):
            verb("pixels", **{"data" if verb is dinolab.embed else "train": folders[0]}, device=device)


def test_an_encoder_without_blocks_is_evaluated_by_its_last_layer(folders, monkeypatch):
    """As a ResNet, which refuses more than its last layer."""
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 5)

    class Convolutions(BackboneEncoder):
        def layers(self, images, n):
            assert n == 1
            return super().layers(images, n)

    encoder = Convolutions(ViT(Model(dim=12, depth=2, heads=2, patch_size=4), 16))
    encoder.has_class_token = False
    assert dinolab.evaluate("linear", encoder, *folders, cache="none").settings["chosen"]["blocks"] == 1


def test_a_wrong_name_is_refused_with_the_nearest(folders):
    with pytest.raises(UserError, match="there is no evaluation knnn; did you mean knn"):
        dinolab.evaluate("knnn", "pixels", *folders)
    for name, options, message in (
        ("linear", {"k": 5}, "there is no option k; see dinolab eval linear --help"),
        ("knn", {"block": 2}, "there is no option block; did you mean blocks"),
        ("logreg", {"epochs": 2}, "there is no option epochs"),
        ("knn", {"tokens": "cla"}, "tokens=cla: one of cls, patches, both"),
        ("knn", {"precision": "fp8"}, "precision=fp8: one of"),
    ):
        with pytest.raises(UserError, match=message):
            dinolab.evaluate(name, "pixels", *folders, **options)
    with pytest.raises(UserError, match="train is not set"):
        dinolab.evaluate("knn", "pixels")


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"k": -1}, {"k": 2.5}, {"blocks": 0}, {"seeds": 0}, {"seed": -1}, {"workers": -2}]
    + [{"size": size} for size in (0, -5, (16, 0), (16,), 16.5, "12x", "1x2x3", "big")],
)
def test_a_wrong_number_is_refused(wrong):
    key = next(iter(wrong))
    with pytest.raises(UserError, match=key):
        dinolab.evaluate("knn", "pixels", "x", **wrong)
    if key in ("size", "workers"):
        with pytest.raises(UserError, match=key):
            dinolab.embed("pixels", "x", **wrong)
    if key in ("size", "workers", "seed", "seeds"):
        with pytest.raises(UserError, match=key):
            dinolab.compare("pixels", [], "x", **wrong)


def test_a_result_folder_that_is_a_file_is_refused(folders):
    with pytest.raises(UserError, match=r"out=.*is a file"):
        dinolab.evaluate("knn", "pixels", *folders, f"{folders[0]}/class0/000.png", cache="none")
