"""Predictions by a saved layer, in Python and on the command line."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import dinolab
from dinolab import cli
from dinolab.errors import UserError
from dinolab.evals.heads import Input
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.weights.load import save_encoder
from tests.pictures import make_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, whose logistic regression has been saved, and with `test` images, one of which is damaged."""
    folder = tmp_path_factory.mktemp("predict")
    torch.manual_seed(0)
    train = make_folder(folder / "train", per_class=10, classes=3)
    test = make_folder(folder / "test", per_class=4, classes=3, seed=1)
    (test / "class1" / "002.png").write_bytes(b"no image")
    (folder / "run").mkdir()
    vit = ViT(Model(dim=12, depth=2, heads=2, patch_size=4, init="scaled"), 16)
    save_encoder(vit, folder / "run", {"step": 3})
    how = {"size": "24x16", "tokens": "both", "blocks": 2, "cache": "none"}
    dinolab.evaluate("logreg", folder / "run", train, test, folder / "run" / "eval" / "logreg", **how)
    return folder


def test_a_run_classifies_a_folder_as_its_evaluation_did(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.csv"
    words = ["predict", str(made / "run"), str(made / "test"), f"out={out}", f"cache={tmp_path}", "device=cpu"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert (
        f"{made / 'run' / 'eval' / 'logreg' / 'layer.safetensors'}\n" in said and f"encoder: {made / 'run'}\n" in said
    )
    assert "11 images, 1 more cannot be read" in said and len(list(tmp_path.glob("*.safetensors"))) == 1
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["filename", "label", "probability", "class0", "class1", "class2"]
    evaluated = list(csv.DictReader((made / "run" / "eval" / "logreg" / "predictions.csv").open()))
    found = [(row["filename"], row["label"], row["probability"]) for row in rows if row["label"]]
    assert found == [(row["filename"], row["predicted"], row["probability"]) for row in evaluated]
    for row in rows:
        shares = [row[name] for name in ("class0", "class1", "class2")]
        if row["filename"] == "class1/002.png":
            assert [row["label"], row["probability"], *shares] == [""] * 5
        else:
            assert row["probability"] == row[row["label"]] == max(shares, key=float)
            assert abs(sum(map(float, shares)) - 1) < 2e-6

    python = dinolab.predict(made / "run", made / "test", cache="none")
    assert python.images == [row["filename"] for row in rows] and python.unreadable == ["class1/002.png"]
    assert python.labels == [row["label"] for row in rows if row["label"]]
    np.testing.assert_allclose(python.probabilities.sum(1), 1, atol=1e-6)


def test_a_run_that_was_moved_is_found_and_other_weights_are_refused(made: Path, tmp_path: Path) -> None:
    expected = dinolab.predict(made / "run", made / "test", cache="none").probabilities
    shutil.copytree(made / "run", tmp_path / "moved")
    shutil.copytree(made / "run" / "eval" / "logreg", tmp_path / "layer")
    hidden = made / "run" / "model.safetensors"
    hidden.rename(made / "hidden")
    try:
        found = dinolab.predict(tmp_path / "moved", made / "test", cache="none")
        assert found.encoder == str(tmp_path / "moved") and np.array_equal(found.probabilities, expected)
        with pytest.raises(UserError, match=r"layer\.safetensors: its encoder is not found: .*name it by encoder="):
            dinolab.predict(tmp_path / "layer", made / "test", cache="none")
        found = dinolab.predict(
            tmp_path / "layer", made / "test", encoder=dinolab.load(tmp_path / "moved"), cache="none"
        )
        assert found.encoder == "BackboneEncoder" and np.array_equal(found.probabilities, expected)
    finally:
        (made / "hidden").rename(hidden)


def test_a_damaged_layer_is_refused(made: Path, tmp_path: Path) -> None:
    damages = {"size": [("24", 16)], "classes": [[1, 2, 3]], "taken": [Input("2", "both"), Input(2, "all")]}
    for fact, value in ((fact, value) for fact, values in damages.items() for value in values):
        layer = dinolab.load_layer(made / "run" / "eval" / "logreg")
        setattr(layer, fact, value)
        layer.save(tmp_path)
        with pytest.raises(UserError, match=r"layer\.safetensors: not a layer of dinolab's .*repeat"):
            dinolab.predict(tmp_path, made / "test", encoder=made / "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{}/run", "encoder=pixels"], "pixels has other weights"),
        (["{}/test"], "test: no layer.safetensors there; `dinolab eval linear RUN train=DIR` writes one"),
        (["{}/nothing"], "nothing: no such file"),
        (["{}/run", "out={}/no/p.csv"], "name a file to write"),
        (["{}/run", "size=big"], "size=big: not a size"),
    ],
)
def test_mistakes_are_one_line(
    made: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run, *options = (word.format(made) for word in words)
    assert cli.main(["predict", run, str(made / "test"), f"out={tmp_path / 'p.csv'}", "cache=none", *options]) == 2
    said = capsys.readouterr()
    assert message in said.err and not said.out and not list(tmp_path.iterdir())
