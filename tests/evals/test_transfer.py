"""Transfer to many data sets: their layouts, metrics as published, and the mean."""

import json
import pickle
import shutil

import cv2
import numpy as np
import pytest
from sklearn.metrics import recall_score

import dinolab
from dinolab.data.sources import open_source
from dinolab.data.storage import read_bytes
from dinolab.errors import UserError
from dinolab.evals.transfer import average_precision, mean_average_precision, mean_per_class
from dinolab.evals.transfer_sets import KNOWN, find_sets
from tests.pictures import make_folder

QUICK = {"size": 32, "cache": "none"}


def two_sides(folder, test="test", classes=3):
    make_folder(folder / "train", per_class=6, classes=classes, seed=0)
    make_folder(folder / test, per_class=3, classes=classes, seed=1)


def colours(folder, names, seed=0):
    """Images NAME.jpg; a class, the number before the first _, is a colour."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for name in names:
        picture = np.full((24, 24, 3), 40.0)
        picture[..., int(name.split("_")[0]) % 3] = 200
        cv2.imwrite(
            str(folder / f"{name}.jpg"), (picture + rng.normal(0, 10, picture.shape)).clip(0, 255).astype(np.uint8)
        )


def make_voc(folder):
    names = [f"{n % 3}_{n}" for n in range(18)]
    colours(folder / "JPEGImages", names)
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for c, name in enumerate(("blue", "green", "red")):
        for side, part in (("trainval", names[:12]), ("test", names[12:])):
            lines = [f"{one} {1 if int(one[0]) == c else -1:2d}" for one in part]
            (lists / f"{name}_{side}.txt").write_text("\n".join(lines))


def make_cifar(folder):
    """CIFAR-10 with two images a class in each of two batches."""
    folder.mkdir()
    for n, file in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        data = np.full((6, 3, 32, 32), 40, np.uint8)
        for row in range(6):
            data[row, row % 3] = 200 + n
        content = {"data": data.reshape(6, -1), "labels": [row % 3 for row in range(6)]}
        (folder / file).write_bytes(pickle.dumps(content, 2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["r", "g", "b"]}, 2))


def test_all_layouts_under_a_root(tmp_path):
    two_sides(tmp_path / "Food_101")
    two_sides(tmp_path / "my set", test="val", classes=2)
    make_voc(tmp_path / "VOCdevkit" / "VOC2007")
    make_cifar(tmp_path / "cifar-10-batches-py")
    names = [f"{c}_{n}" for c in range(3) for n in range(6)]
    pets = tmp_path / "oxford-iiit-pet"  # read by torchvision
    colours(pets / "images", names)
    (pets / "annotations").mkdir()
    for side, part in (("trainval", "0123"), ("test", "45")):
        lines = [f"{name} {int(name[0]) + 1} 1 1" for name in names if name[-1] in part]
        (pets / "annotations" / f"{side}.txt").write_text("\n".join(lines))
    caltech = tmp_path / "caltech101" / "101_ObjectCategories"
    for c in range(2):
        colours(caltech / f"c{c}", [f"{c}_{n}" for n in range(33)])

    found = dinolab.evaluate("transfer", "pixels", out=tmp_path / "out", root=str(tmp_path), **QUICK)
    assert found.parts == {
        "Food-101": {"accuracy": 1}, "CIFAR-10": {"accuracy": 1}, "VOC 2007": {"map": 1}, "Pets": {"per_class": 1},
        "Caltech-101": {"per_class": 1}, "my set": {"accuracy": 1},
    }  # fmt: skip
    assert found.main.value == 1 and found.main.interval == (1, 1)
    assert found.data["test_images"] == 9 + 6 + 6 + 6 + 6 + 6
    assert json.loads((tmp_path / "out" / "result.json").read_text())["parts"] == found.parts
    _, missing = find_sets(tmp_path)
    assert len(missing) == len(KNOWN) - 5 and all("; from " in one for one in missing)

    shutil.rmtree(caltech / "c1")
    one = dinolab.evaluate("transfer", "pixels", root=str(tmp_path), only=["voc2007"], **QUICK)
    assert list(one.parts) == ["VOC 2007"]
    with pytest.raises(UserError, match=r"only=dtd: not under .*https://www.robots"):
        dinolab.evaluate("transfer", "pixels", root=str(tmp_path), only=["dtd"], **QUICK)


def test_bad_roots_are_one_line(tmp_path):
    for root, said in ((tmp_path, "none of the data sets is here"), (tmp_path / "no", "no such folder")):
        with pytest.raises(UserError, match=said) as error:
            dinolab.evaluate("transfer", "pixels", root=str(root), **QUICK)
        assert "\n" not in str(error.value)


def test_cifar_is_a_source_and_refuses_code(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    make_cifar(folder)
    train, test = open_source(str(folder)), open_source(str(folder / "test_batch"))
    assert len(train) == 12 and len(test) == 6 and train.classes == ["b", "g", "r"]
    image = cv2.imdecode(np.frombuffer(read_bytes(test.paths[1]), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image.shape == (32, 32, 3) and image[5, 5].tolist() == [40, 202, 40]

    (folder / "test_batch").write_bytes(pickle.dumps({"labels": [0, 99]}, 2))
    with pytest.raises(UserError, match="not the files of CIFAR"):
        open_source(str(folder / "test_batch"))

    class Evil:
        def __reduce__(self):
            return print, ("code ran",)

    (folder / "test_batch").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="no file of CIFAR does"):
        open_source(str(folder / "test_batch"))


def plain_ap(scores, there):
    """The development kit's loop."""
    order = np.argsort(-scores, kind="stable")
    tp = np.cumsum(there[order])
    recall, precision = tp / there.sum(), tp / np.arange(1, len(tp) + 1)
    return sum(max([p for p, r in zip(precision, recall) if r >= t / 10 - 1e-12], default=0) / 11 for t in range(11))


def test_metrics_against_plain_formulas_and_at_their_limits():
    rng = np.random.default_rng(0)
    for images in (1, 2, 7, 40):
        scores, there = rng.integers(0, 5, images) / 4, rng.random(images) < 0.3
        there[rng.integers(images)] = True
        assert average_precision(scores, there) == pytest.approx(plain_ap(scores, there), abs=1e-12)
    assert average_precision(np.array([3.0, 2, 1]), np.array([True, True, False])) == 1
    assert average_precision(np.array([3.0, 2, 1]), np.array([False, False, True])) == pytest.approx(1 / 3)
    everything = np.arange(4)
    scores = np.array([[4.0, 1], [3, 2], [2, 3], [1, 4]])
    truth = np.array(
        [[0, -1], [1, -1], [-1, -1], [-1, -1]]
    )  # the best of the first class is left out; the second never occurs
    assert mean_average_precision(scores, truth, everything) == 1
    right, classes = np.array([True, False, True, True, True]), np.array([0, 0, 0, 2, 2])
    expected = recall_score(classes, np.where(right, classes, 9), labels=[0, 2], average="macro")
    assert mean_per_class(right, classes, np.arange(5)) == pytest.approx(expected)
