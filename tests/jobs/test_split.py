"""The set in every form it comes in, and its split."""

import json
import shutil
import zipfile

import pytest

from dinolab.errors import UserError
from dinolab.jobs.copies import find_layout
from dinolab.jobs.har_images import prepare
from tests.jobs.conftest import make_har, read_sheet, write_sheet


def names(file):
    return [(row["filename"].rpartition("/")[2], row["label"]) for row in read_sheet(file)]


def test_given_labels_are_the_test_set(small_har, tmp_path):
    split = prepare(str(small_har), tmp_path / "out")
    assert names(split.train) == [(row["filename"], row["label"]) for row in read_sheet(small_har / "Training_set.csv")]
    assert names(split.test) == [
        (row["filename"], row["label"]) for row in read_sheet(small_har / "Testing_labels.csv")
    ]
    assert split.unlabelled is None
    facts = json.loads((tmp_path / "out" / "data" / "split.json").read_text())
    assert facts == split.facts
    assert facts["split"] == "given, by Testing_labels.csv" and facts["train"]["images"] == 24
    assert "36 labelled images instead of 12,600" in facts["differences"]


def test_without_test_labels_a_fifth_is_held_out_once(tmp_path):
    folder = make_har(tmp_path / "har", train=10, labels=False)
    split = prepare(str(folder), tmp_path / "a")
    train, test = names(split.train), names(split.test)
    assert sorted(train + test) == sorted((r["filename"], r["label"]) for r in read_sheet(folder / "Training_set.csv"))
    assert {label: sum(of == label for _, of in test) for _, label in test} == {
        "calling": 2,
        "cycling": 2,
        "sleeping": 2,
    }
    unlabelled = read_sheet(folder / "Testing_set.csv")
    assert [row["filename"].rpartition("/")[2] for row in read_sheet(split.unlabelled)] == [
        r["filename"] for r in unlabelled
    ]
    again = prepare(str(folder), tmp_path / "b")
    assert names(again.test) == test and "20% held out" in again.facts["split"]


def test_only_images_without_a_label_are_to_be_predicted(small_har, tmp_path):
    rows = read_sheet(small_har / "Testing_labels.csv")
    write_sheet(small_har / "Testing_labels.csv", [(r["filename"], r["label"]) for r in rows[:-2]])
    split = prepare(str(small_har), tmp_path / "out")
    left = [row["filename"].rpartition("/")[2] for row in read_sheet(split.unlabelled)]
    assert left == [row["filename"] for row in rows[-2:]]


def test_a_limit_takes_as_many_of_each_class(small_har, tmp_path):
    split = prepare(str(small_har), tmp_path / "out", (5, 2))
    for file, count in ((split.train, 5), (split.test, 2)):
        labels = [label for _, label in names(file)]
        assert {label: labels.count(label) for label in labels} == {
            "calling": count,
            "cycling": count,
            "sleeping": count,
        }
    assert split.facts["images_of_a_class"] == {"train": 5, "test": 2}


def test_missing_images_are_named_and_left_out(small_har, tmp_path):
    (small_har / "train" / "Image_3.jpg").unlink()
    split = prepare(str(small_har), tmp_path / "out")
    assert "Training_set.csv names 1 images that are not there: Image_3.jpg" in split.facts["differences"]
    assert len(names(split.train)) == 23


def test_moved_images_are_followed_and_others_refused(small_har, tmp_path):
    before = prepare(str(small_har), tmp_path / "out")
    moved = tmp_path / "elsewhere"
    small_har.rename(moved)
    after = prepare(str(moved), tmp_path / "out")
    assert after.facts["train"] == before.facts["train"]
    assert read_sheet(after.train)[0]["filename"] == str(moved / "train" / "Image_1.jpg")
    for rest in ("x" * 200_000, "\n\nx"):  # a field that is too long, lines without a field
        written = after.train.read_text()
        after.train.write_text(written + rest)
        with pytest.raises(UserError, match=r"train\.csv: "):
            prepare(str(moved), tmp_path / "out")
        after.train.write_text(written)
    (moved / "train" / "Image_1.jpg").unlink()
    with pytest.raises(UserError, match=r"train.csv: data= has other images.*out="):
        prepare(str(moved), tmp_path / "out")


@pytest.mark.parametrize("below", ["", "Human Action Recognition"])
def test_a_zip_is_unpacked_once(small_har, tmp_path, below):
    root = tmp_path / "root"
    shutil.copytree(small_har, root / below)
    zipped = shutil.make_archive(str(tmp_path / "archive"), "zip", root)
    split = prepare(zipped, tmp_path / "out")
    assert len(names(split.train)) == 24
    shutil.rmtree(root)
    archive = tmp_path / "archive.zip"
    archive.write_bytes(bytes(archive.stat().st_size))  # not read again
    assert prepare(zipped, tmp_path / "out").facts["train"] == split.facts["train"]


def test_half_an_unpacked_zip_is_unpacked_anew(small_har, tmp_path):
    zipped = shutil.make_archive(str(tmp_path / "archive"), "zip", small_har)
    (tmp_path / "out" / "images.unfinished" / "train").mkdir(parents=True)
    assert len(names(prepare(zipped, tmp_path / "out").train)) == 24
    assert not (tmp_path / "out" / "images.unfinished").exists()


def test_a_hugging_face_copy_on_disk_or_by_name(small_har, tmp_path):
    datasets = pytest.importorskip("datasets")
    classes = datasets.ClassLabel(names=["calling", "cycling", "sleeping"])
    features = datasets.Features({"image": datasets.Image(), "labels": classes})

    def part(name, sheet, label):
        rows = read_sheet(small_har / sheet)
        columns = {"image": [str(small_har / name / r["filename"]) for r in rows], "labels": [label(r) for r in rows]}
        return datasets.Dataset.from_dict(columns, features=features)

    both = datasets.DatasetDict(
        train=part("train", "Training_set.csv", lambda r: classes.str2int(r["label"])),
        test=part("test", "Testing_set.csv", lambda r: 0),  # as the published copy has it
    )
    both.save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    for name, table in datasets.load_from_disk(tmp_path / "saved").items():  # whose rows hold the images
        table.to_parquet(tmp_path / "parquet" / f"{name}-00000-of-00001.parquet")
    for number, data in enumerate((tmp_path / "saved", tmp_path / "parquet", f"hf:{tmp_path / 'parquet'}")):
        folder = find_layout(str(data), tmp_path / str(number))
        train = read_sheet(folder / "Training_set.csv")
        assert [row["label"] for row in train] == [r["label"] for r in read_sheet(small_har / "Training_set.csv")]
        first, theirs = folder / "train" / train[0]["filename"], small_har / "train" / "Image_1.jpg"
        assert first.read_bytes() == theirs.read_bytes()
        assert len(read_sheet(folder / "Testing_set.csv")) == 12 and not (folder / "Testing_labels.csv").exists()
        assert sorted(path.name for path in folder.iterdir()) == [
            "Testing_set.csv",
            "Training_set.csv",
            "origin.txt",
            "test",
            "train",
        ]


def test_anything_but_a_copy_is_refused_in_a_line(small_har, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="data= is not set"):
        prepare("", out)
    with pytest.raises(UserError, match=r"data=nowhere: no such"):
        prepare("nowhere", out)
    with pytest.raises(UserError, match=r"no Training_set.csv in it.*my-own-data"):
        prepare(str(small_har / "train"), out)
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"broken.zip: not a whole zip"):
        prepare(str(tmp_path / "broken.zip"), out)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("readme.txt", "")
    with pytest.raises(UserError, match=r"other.zip: no Training_set.csv"):
        prepare(str(tmp_path / "other.zip"), out)
    assert not (out / "images").exists()
    write_sheet(small_har / "Training_set.csv", [(r["filename"],) for r in read_sheet(small_har / "Training_set.csv")])
    with pytest.raises(
        UserError, match=r"Training_set.csv: its first line is 'filename'; the set's is 'filename,label'"
    ):
        prepare(str(small_har), out)


def test_useless_labels_are_refused(small_har, tmp_path):
    sheets = {name: read_sheet(small_har / f"{name}.csv") for name in ("Training_set", "Testing_labels")}

    def relabel(name, label):
        write_sheet(small_har / f"{name}.csv", [(r["filename"], label(r)) for r in sheets[name]])

    relabel("Testing_labels", lambda row: row["label"].upper())
    with pytest.raises(UserError, match=r"Testing_labels.csv has none of Training_set.csv's classes, but [A-Z]"):
        prepare(str(small_har), tmp_path / "a")
    relabel("Testing_labels", lambda row: row["label"].replace("sleeping", "snoring"))
    assert (
        "classes of test images that no train image has: snoring"
        in prepare(str(small_har), tmp_path / "b").facts["differences"]
    )
    relabel("Training_set", lambda row: "running")
    with pytest.raises(UserError, match=r"all labels are 'running'; two classes are needed"):
        prepare(str(small_har), tmp_path / "c")


def test_images_named_twice_are_reported(small_har, tmp_path):
    rows = read_sheet(small_har / "Training_set.csv")
    twice = {**rows[0], "label": rows[1]["label"]}
    write_sheet(small_har / "Training_set.csv", [(r["filename"], r["label"]) for r in [*rows, twice]])
    split = prepare(str(small_har), tmp_path / "out")
    assert f"Training_set.csv names 1 images more than once: {rows[0]['filename']}" in split.facts["differences"]


def test_another_zip_is_not_taken_for_the_first(small_har, tmp_path):
    for name in ("first", "second"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as packed:
            for file in sorted(small_har.rglob("*.*")):
                packed.write(file, file.relative_to(small_har))
    prepare(str(tmp_path / "first.zip"), tmp_path / "out")
    with pytest.raises(UserError, match=r"holds the images of first.zip, .* bytes, not of second.zip"):
        prepare(str(tmp_path / "second.zip"), tmp_path / "out")
    (tmp_path / "moved").mkdir()
    (tmp_path / "first.zip").rename(tmp_path / "moved" / "first.zip")
    prepare(str(tmp_path / "moved" / "first.zip"), tmp_path / "out")
