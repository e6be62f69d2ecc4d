"""The options that say how a CSV or dataset is read mean the same to every verb, and stay with the results."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest

from dinolab.cli import main
from dinolab.evals.comparison import read_comparison
from dinolab.evals.earlier import read_result
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.report.evaluated import Evaluated
from dinolab.report.predictions import test_images as images_of_test
from dinolab.report.sections import again
from dinolab.report.verdict import can_be_compared
from dinolab.weights.load import save_encoder
from tests.pictures import make_folder

QUICK = ["size=16", "cache=none", "workers=0", "device=cpu"]


@pytest.fixture
def sheets(tmp_path):
    """Two CSV files whose images no rule finds, since two folders beside them hold images of the same names."""
    make_folder(tmp_path / "photos", per_class=6, classes=2)
    make_folder(tmp_path / "masks", per_class=6, classes=2)
    for name, numbers in {"train": range(4), "test": range(4, 6)}.items():
        rows = [f"class{kind}/{number:03}.png,{['cat', 'dog'][kind]}" for kind in (0, 1) for number in numbers]
        (tmp_path / f"{name}.csv").write_text("\n".join(["file,kind", *rows]))
    return [f"train={tmp_path}/train.csv", f"test={tmp_path}/test.csv"], [
        "filename_column=file",
        "label_column=kind",
        f"images={tmp_path}/photos",
    ]


def test_evaluations_keep_the_columns_so_that_they_can_be_repeated(sheets, tmp_path, monkeypatch):
    monkeypatch.setattr("dinolab.evals.throughput.SECONDS", 0)
    (data, columns), out = sheets, tmp_path / "knn"
    assert main(["eval", "knn", "pixels", *data, *columns, *QUICK, f"out={out}"]) == 0
    found = Evaluated(out, read_result(out / "result.json"))
    assert found.result.data["classes"] == ["cat", "dog"]
    command = shlex.split(again.evaluation(found))
    assert set(columns) < set(command)
    other = replace(found.result, data=found.result.data | {"label_column": "colour"})
    assert can_be_compared(found, found) and not can_be_compared(found, Evaluated(out, other))
    assert len(images_of_test(found)) == 4  # which the report opens by the same columns
    assert main([*command[1:], f"out={tmp_path}/again"]) == 0
    assert read_result(tmp_path / "again/result.json").data == found.result.data

    out = tmp_path / "all"
    assert main(["eval", "all", "pixels", "evaluations=knn", *data, *columns, *QUICK, f"out={out}"]) == 0
    command = shlex.split(again.comparison(read_comparison(out / "all.json")))
    assert set(columns) < set(command)
    kept = json.loads((out / "pixels/knn/result.json").read_text())["data"]
    assert kept == found.result.data


def test_embed_and_show(sheets, tmp_path, capsys):
    (data, columns), out = sheets, tmp_path / "features.npz"
    source = data[0].replace("train=", "data=")
    assert main(["embed", "pixels", source, *columns, *QUICK, f"out={out}"]) == 0
    with np.load(out) as arrays:
        assert arrays["classes"].tolist() == ["cat", "dog"] and arrays["labels"].tolist() == [0] * 4 + [1] * 4
    save_encoder(ViT(Model(dim=12, depth=1, heads=2, patch_size=4), 16), tmp_path, {})
    picture = f"{tmp_path}/photos/class0/000.png"
    assert main(["show", "neighbours", str(tmp_path), picture, source, *columns, "k=2", "device=cpu"]) == 0
    capsys.readouterr()
    assert main(["embed", "pixels", source, columns[0], columns[2], "label_column=kid", f"out={out}"]) == 2
    assert "no column 'kid', only: file, kind; did you mean label_column=kind?" in capsys.readouterr().err
    assert main(["show", "neighbours", str(tmp_path), picture, source, "device=cpu"]) == 2
    assert "no column 'filename', only: file, kind; did you mean filename_column=file?" in capsys.readouterr().err
    assert main(["show", "neighbours", str(tmp_path), picture, source, columns[0], "device=cpu"]) == 2
    assert "several folders" in (message := capsys.readouterr().err) and "or set images to their folder" in message
