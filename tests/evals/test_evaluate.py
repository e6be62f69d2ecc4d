"""Whole evaluations on small folders of coloured squares, in Python and on the command line."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import dinolab
from dinolab.cli import main
from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.features.pixels import PixelEncoder
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model
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
    found = dinolab.evaluate(protocol, "pixels", *folders, tmp_path / "out", size=32, cache=None, environment={"x": 1})
    assert found["accuracy"] == 1
    assert found["leaks"] == [] and found["without_leaks"] == 1
    assert {name: one["images"] for name, one in found["per_class"].items()} == {"class0": 4, "class1": 4, "class2": 4}
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == json.loads(json.dumps(found))
    assert found["environment"] == {"x": 1} and found["protocol"]["size"] == (32, 32)
    assert (tmp_path / "out" / "confusion.png").stat().st_size > 1000
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert [row["filename"] for row in rows[:2]] == ["class0/000.png", "class0/001.png"]
    assert all(row["label"] == row["predicted"] == row["filename"].split("/")[0] for row in rows) and len(rows) == 12
    assert all(0.3 < float(row["probability"]) <= 1 for row in rows)


def test_k_is_told_side_by_side_and_one_of_them_counts(folders):
    found = dinolab.evaluate("knn", "pixels", *folders, size=32, cache=None, k=1)
    assert list(found["also"]) == ["k = 10", "k = 20", "k = 100", "k = 200"]
    assert found["protocol"]["k"] == 1


def test_the_accuracy_is_that_of_knn_while_training(folders, run):
    from dinolab.evals import knn

    encoder = dinolab.load(run)
    votes, asked = (open_source(path) for path in folders)
    for k in (1, 10, 20):
        alone = dinolab.evaluate("knn", encoder, votes, asked, k=k, cache=None)
        assert alone["accuracy"] == knn.evaluate(encoder, votes, asked, 16, k, progress=False)["knn"]


def test_identical_files_in_both_sets_are_counted_and_left_out_of_one_figure(folders, tmp_path, caplog):
    train, test = folders
    shutil.copy(f"{train}/class1/000.png", f"{test}/class0/000.png")  # whose label is wrong, so accuracy falls with it
    shutil.copy(f"{train}/class2/003.png", f"{test}/class2/001.png")
    found = dinolab.evaluate("knn", "pixels", train, test, tmp_path / "out", size=32, cache=None)
    assert found["leaks"] == [["class0/000.png", "class1/000.png"], ["class2/001.png", "class2/003.png"]]
    assert found["accuracy"] == pytest.approx(11 / 12) and found["without_leaks"] == 1
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
    options = {"size": 32, "cache": None}
    dinolab.evaluate(
        "knn", "pixels", train, test, out, **options
    )  # whose files must not be taken for those of the next
    found = dinolab.evaluate("logreg", "pixels", train, unlabelled, out, **options)
    assert "accuracy" not in found
    assert sorted(file.name for file in out.iterdir()) == ["predictions.csv", "result.json"]
    assert json.loads((out / "result.json").read_text()) == json.loads(json.dumps(found))
    expected = "filename,label\nImage_2.png,class2\nImage_0.png,class0\nImage_1.png,class1\n"
    assert (out / "predictions.csv").read_text() == expected


def test_a_submission_has_a_line_for_what_cannot_be_read_too(folders, tmp_path):
    unlabelled = make_unlabelled(tmp_path / "har", folders[1])
    (tmp_path / "har" / "test" / "Image_0.png").write_bytes(b"no image")
    dinolab.evaluate("knn", "pixels", folders[0], unlabelled, tmp_path / "out", size=32, cache=None)
    expected = "filename,label\nImage_2.png,class2\nImage_0.png,\nImage_1.png,class1\n"
    assert (tmp_path / "out" / "predictions.csv").read_text() == expected


def test_a_class_that_train_lacks_counts_as_wrong(folders, tmp_path, caplog):
    train, test = folders
    shutil.move(f"{test}/class0", f"{test}/another")
    found = dinolab.evaluate("logreg", "pixels", train, test, tmp_path, size=32, cache=None)
    assert found["accuracy"] == pytest.approx(8 / 12)
    assert found["per_class"]["another"] == {"accuracy": 0.0, "images": 4}
    assert "another" in caplog.text
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert {row["predicted"] for row in rows if row["label"] == "another"} == {"class0"}


def test_without_a_test_set_a_fifth_is_held_out_the_same_for_every_protocol(folders, tmp_path):
    asked = []
    for protocol in ("knn", "logreg"):
        found = dinolab.evaluate(protocol, "pixels", folders[0], out=tmp_path / protocol, size=32, cache=None)
        data = found["data"]
        assert (data["train_images"], data["test_images"]) == (24, 6)
        assert data["split"] == f"20% held out, {folders[0]}.split-0.json"
        asked.append([row["filename"] for row in csv.DictReader((tmp_path / protocol / "predictions.csv").open())])
    assert asked[0] == asked[1] and len(asked[0]) == 6
    assert asked[0] == sorted(json.loads((tmp_path / "train.split-0.json").read_text())["test"])


def test_several_seeds_draw_several_splits(folders, tmp_path):
    found = dinolab.evaluate("knn", "pixels", folders[0], out=tmp_path / "out", size=32, cache=None, seed=1, seeds=3)
    over = json.loads((tmp_path / "out" / "result.json").read_text())["seeds"]
    assert over == found["seeds"] and over["seed"] == [1, 2, 3]
    assert over["accuracy"][0] == found["accuracy"]
    for seed, accuracy in zip(over["seed"], over["accuracy"]):
        assert dinolab.evaluate("knn", "pixels", folders[0], size=32, cache=None, seed=seed)["accuracy"] == accuracy
    assert len(list(tmp_path.glob("train.split-*.json"))) == 3


def test_several_seeds_of_a_protocol_that_draws_and_of_one_that_does_not(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 3)  # few, so that seeds differ
    options = {"size": 32, "cache": tmp_path / "kept"}
    found = dinolab.evaluate("linear", "pixels", *folders, seeds=2, **options)
    alone = [dinolab.evaluate("linear", "pixels", *folders, seed=seed, **options)["accuracy"] for seed in (0, 1)]
    assert found["seeds"]["accuracy"] == alone
    assert "seeds" not in dinolab.evaluate("knn", "pixels", *folders, seeds=2, **options)


def test_poisoned_test_labels_change_no_prediction(folders, tmp_path, run, monkeypatch):
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 10)
    train, test = (open_source(path) for path in folders)
    poisoned = Source("poisoned", test.paths, (test.labels + 1) % 3, test.classes)
    for protocol in ("knn", "logreg", "linear"):
        said = []
        for asked in (test, poisoned):
            found = dinolab.evaluate(protocol, dinolab.load(run), train, asked, tmp_path, cache=None)
            rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
            said.append((found["protocol"], [(row["filename"], row["predicted"], row["probability"]) for row in rows]))
        assert said[0] == said[1]


def test_features_of_a_diverged_model_are_never_right(folders, run, tmp_path, monkeypatch):
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 5)
    encoder = dinolab.load(run)
    encoder.vit.norm.weight.fill_(float("nan"))
    assert dinolab.evaluate("knn", encoder, *folders, tmp_path, cache=None)["accuracy"] == 0
    assert "class0/000.png,class0,,nan" in (tmp_path / "predictions.csv").read_text()
    for protocol in ("logreg", "linear"):
        with pytest.raises(UserError, match="diverged"):
            dinolab.evaluate(protocol, encoder, *folders, cache=None)


def test_tokens_and_blocks_are_what_the_features_are_made_of(folders, run):
    encoder = dinolab.load(run)
    widths = {}
    for tokens, blocks in (("cls", 1), ("patches", 1), ("both", 2)):
        found = dinolab.evaluate("knn", encoder, *folders, cache=None, tokens=tokens, blocks=blocks)
        widths[tokens] = (found["protocol"]["tokens"], found["protocol"]["blocks"])
    assert widths == {"cls": ("cls", 1), "patches": ("patches", 1), "both": ("both", 2)}


def test_embed(folders, run, tmp_path):
    file = tmp_path / "features.npz"
    found = dinolab.embed(run, folders[1], file, patches=True, cache=None)
    kept = np.load(file)
    assert set(kept.files) == set(found) == {"cls", "patches", "labels", "classes", "names"}
    encoder, source = dinolab.load(run), open_source(folders[1])
    from dinolab.data.decode import read_image
    from dinolab.data.views import eval_view

    images = torch.stack([torch.as_tensor(eval_view(read_image(path), 16)) for path in source.paths])
    with torch.inference_mode():
        expected = encoder(images)
    np.testing.assert_allclose(kept["cls"], expected.cls, atol=1e-5)
    np.testing.assert_allclose(kept["patches"], expected.patches.mean((1, 2)), atol=1e-5)
    assert kept["labels"].tolist() == source.labels.tolist() and kept["classes"].tolist() == source.classes
    assert kept["names"][:2].tolist() == ["class0/000.png", "class0/001.png"]


def test_embed_refuses_a_file_it_cannot_write(folders, tmp_path):
    for out in (tmp_path / "features.csv", tmp_path / "nowhere" / "features.npz"):
        with pytest.raises(UserError, match=r"ends in \.npz"):
            dinolab.embed("pixels", folders[1], out, cache=None)


def test_the_command_line(folders, run, tmp_path, capsys):
    where = ["--cache", str(tmp_path / "kept"), "--device", "cpu", "--workers", "0"]
    assert main(["eval", "knn", str(run), "--train", folders[0], "--test", folders[1], "-k", "5", *where]) == 0
    said = capsys.readouterr().out
    assert "k = 200" in said and "class2" in said
    result = json.loads((run / "eval" / "knn" / "result.json").read_text())
    assert result["protocol"]["k"] == 5 and result["encoder"]["info"] == {"step": 3}
    assert result["environment"]["packages"]["torch"] == torch.__version__
    assert f"{result['accuracy']:.1%}" in said

    out = tmp_path / "f.npz"
    assert main(["embed", "pixels", "--data", folders[1], "--out", str(out), "--size", "16x32", *where]) == 0
    assert "12 images, 3072 features each, 3 classes" in capsys.readouterr().out
    assert np.load(out)["cls"].shape == (12, 3072)
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_results_of_weights_lie_under_their_name(tmp_path):
    from dinolab.cli.evaluate import default_out

    assert str(default_out("timm:vit_small")) == "runs/eval/timm_vit_small"
    assert str(default_out("pixels")) == "runs/eval/pixels"
    assert default_out(str(tmp_path)) == tmp_path / "eval"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["knn", "nowhere", "--train", "TRAIN", "--test", "TEST"], "nowhere"),
        (["knn", "pixels", "--train", "nowhere"], "--train=nowhere"),
        (["knn", "pixels", "--train", "TRAIN", "--test", "nowhere"], "--test=nowhere"),
        (["logreg", "pixels", "--train", "TRAIN/class0"], "no labels"),
        (["linear", "pixels", "--train", "TRAIN", "--test", "TEST", "--out", "TRAIN/class0/000.png"], "--out"),
        (["knn", "pixels", "--train", "TRAIN", "--device", "abacus"], "--device abacus"),
    ],
)
def test_a_mistake_costs_one_line(folders, words, said, capsys, tmp_path):
    words = [word.replace("TRAIN", folders[0]).replace("TEST", folders[1]) for word in words]
    words += [] if "--out" in words else ["--out", str(tmp_path / "out")]
    words += ["--workers", "0", "--cache", str(tmp_path / "kept")]
    assert main(["eval", *words]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("dinolab: ") and shown.count("\n") == 1
    assert said in shown


@pytest.mark.parametrize("size", ["0", "12x", "1x2x3", "big"])
def test_a_wrong_size_is_refused(size, capsys):
    with pytest.raises(SystemExit):
        main(["eval", "knn", "pixels", "--train", "x", "--size", size])
    assert "is not a size in pixels" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"protocol": "svm"}, {"tokens": "cla"}, {"precision": "fp8"}])
def test_a_wrong_word_in_python_is_refused(wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong.values()))!r} is not one of"):
        dinolab.evaluate(**{"protocol": "knn", "encoder": "pixels", "train": "x", **wrong})


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"k": -1}, {"k": 2.5}, {"blocks": 0}, {"seeds": 0}, {"seed": -1}, {"workers": -1}]
    + [{"size": size} for size in (0, -5, (16, 0), (16,), 16.5)],
)
def test_a_wrong_number_in_python_is_refused(wrong):
    with pytest.raises(UserError, match=rf"^{next(iter(wrong))}=.*: takes whole numbers of [01] or more$"):
        dinolab.evaluate("knn", "pixels", "x", **wrong)
    if wrong.keys() & {"size", "workers"}:
        with pytest.raises(UserError, match="takes whole numbers"):
            dinolab.embed("pixels", "x", **wrong)
    if wrong.keys() & {"size", "workers", "seed", "seeds"}:
        with pytest.raises(UserError, match="takes whole numbers"):
            dinolab.compare("pixels", [], "x", **wrong)


def test_folders_may_be_paths(folders):
    train, test = map(Path, folders)
    found = dinolab.evaluate("knn", "pixels", train, test, size=32, cache=None)
    assert found["accuracy"] == 1 and found["data"]["train"] == str(train)
    assert len(dinolab.embed("pixels", test, size=32, cache=None)["cls"]) == 12


class Asked(Exception):
    """The device that features were asked for on."""


def test_an_encoder_stays_where_it_is_unless_a_device_is_named(folders, run, monkeypatch):
    def ask(*args, **options):
        raise Asked(options["device"])

    monkeypatch.setattr("dinolab.features.embed.extract", ask)
    monkeypatch.setattr("dinolab.evals.evaluate.extract", ask)
    encoder = dinolab.load(run).to("meta")
    for verb in (dinolab.embed, partial(dinolab.evaluate, "knn")):
        with pytest.raises(Asked, match="meta"):
            verb(encoder, folders[0])
        for named in (run, "pixels", PixelEncoder()):
            with pytest.raises(Asked, match="cpu"):
                verb(named, folders[0])
        with pytest.raises(Asked, match=r"cpu|cuda|mps"):
            verb(encoder, folders[0], device="auto")


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_in_python_too(device, folders):
    for verb in (dinolab.embed, partial(dinolab.evaluate, "knn"), partial(dinolab.compare, against=[])):
        with pytest.raises(UserError, match=f"^device={device}: not to be had here"):
            verb("pixels", **{"data" if verb is dinolab.embed else "train": folders[0]}, device=device)


def test_out_of_memory_is_one_line_with_a_way_out(monkeypatch, capsys):
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")

    for place in ("evaluate.evaluate", "embed.embed"):
        monkeypatch.setattr(f"dinolab.evals.{place}", full)
    monkeypatch.setattr("dinolab.weights.load.load", full)
    smaller = "dinolab: out of memory: try a smaller --size or another --device\n"
    for words, said in (
        (["eval", "knn", "pixels", "--train", "x"], smaller),
        (["eval", "finetune", "pixels", "--train", "x"], smaller.replace(" or", " or a smaller --batch-size or")),
        (["embed", "pixels", "--data", "x", "--out", "x.npz"], smaller),
        (["show", "video", "x", "x"], smaller),
    ):
        assert main([*words, "--device", "cpu"]) == 2
        assert capsys.readouterr().err == said


def test_another_error_of_the_device_keeps_its_traceback(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("dinolab.features.embed.embed", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["embed", "pixels", "--data", "x", "--out", "x.npz", "--device", "cpu"])


def test_an_encoder_without_blocks_is_evaluated_by_its_last_layer(folders, monkeypatch):
    """As a ResNet, which refuses more than its last layer."""
    monkeypatch.setattr("dinolab.evals.linear.LEAST_STEPS", 5)

    class Convolutions(BackboneEncoder):
        def layers(self, images, n):
            assert n == 1
            return super().layers(images, n)

    encoder = Convolutions(ViT(Model(dim=12, depth=2, heads=2, patch_size=4), 16))
    encoder.has_class_token = False
    assert dinolab.evaluate("linear", encoder, *folders, cache=None)["protocol"]["chosen"]["blocks"] == 1
