"""Folders, lists and tars as users have them: each is read right, or refused or left out in words."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dinolab.data.addresses import HEIC, IMAGES, braces
from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.sources import open_source, walk
from dinolab.data.storage import read_bytes
from dinolab.errors import UserError
from dinolab.visuals.images import find_images
from tests.data.tars import tar_of, write_tar
from tests.data.test_shards import labels_of
from tests.data.test_sources import names, refusal, touch, write_csv
from tests.pictures import make_folder

needs_rights = pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")


@pytest.mark.parametrize(
    ("folders", "best"),
    [
        (["train", "val"], "train"),
        (["Train", "Test", "masks"], "Train"),
        (["images", "masks"], "images"),
        (["test", "val"], "test"),
    ],
)
def test_parts_of_a_set_are_no_classes(tmp_path, folders, best):
    touch(*(tmp_path / folder / "cat/1.jpg" for folder in folders))
    assert f"eval.train={tmp_path / best}" in refusal(str(tmp_path), option="eval.train")
    touch(tmp_path / "horse/1.jpg")  # a class that is named "train" may have others beside it
    assert len(open_source(str(tmp_path)).classes) == len(folders) + 1


def test_runs_and_hidden_folders_are_left_out(tmp_path, caplog):
    run = tmp_path / "runs/mine"
    touch(
        tmp_path / "cat/1.jpg",
        run / "config.yaml",
        run / "metrics.jsonl",
        run / "pca.png",
        run / "eval/knn/confusion.png",
    )
    touch(
        tmp_path / "__MACOSX/cat/1.jpg",
        tmp_path / ".ipynb_checkpoints/2.jpg",
        tmp_path / "dog/.ipynb_checkpoints/2.jpg",
        tmp_path / "dog/3.jpg",
    )
    source = open_source(str(tmp_path))
    assert names(source, tmp_path) == ["cat/1.jpg", "dog/3.jpg"]
    assert source.classes == ["cat", "dog"]
    assert [found.name for found in find_images([str(tmp_path)])] == ["cat/1.jpg", "dog/3.jpg"]
    assert not caplog.records
    assert len(open_source(str(run))) == 2  # who names the folder of a run wants its pictures


def test_endings_and_files_without_one(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(walk, "IMAGES", tuple(ending for ending in IMAGES if ending not in HEIC))  # without pillow-heif
    picture = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for name in ("a/1.JFIF", "a/2.ppm", "a/3.jp2", "a/4.avif", "b/n0001", "b/README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"read me" if name.endswith("README") else picture)
    touch(
        *(tmp_path / f"c/{n}.HEIC" for n in range(3)),
        tmp_path / "c/1.cr2",
        tmp_path / "notes.txt",
        tmp_path / "labels.csv",
    )
    source = open_source(str(tmp_path))
    assert names(source, tmp_path) == ["a/1.JFIF", "a/2.ppm", "a/3.jp2", "a/4.avif", "b/n0001"]
    assert all(read_image(path).shape == (8, 8, 3) for path in source.paths)
    (record,) = caplog.records
    assert "5 images; left out: 3 .heic (read once pillow-heif is installed), 1 .cr2" in record.getMessage()
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    assert "3 .heic" in refusal(str(tmp_path))


def test_special_files_are_left_out_and_counted(tmp_path, caplog):
    touch(tmp_path / "a/1.jpg")
    os.mkfifo(tmp_path / "a/pipe.jpg")
    (tmp_path / "a/zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "a/self.jpg").symlink_to("self.jpg")
    (tmp_path / "loop").symlink_to("loop")
    assert names(open_source(str(tmp_path)), tmp_path) == ["a/1.jpg"]
    assert "4 links that lead nowhere" in caplog.records[0].getMessage()


@needs_rights
def test_a_folder_that_may_not_be_opened(tmp_path, caplog):
    touch(tmp_path / "a/1.jpg", tmp_path / "b/2.jpg")
    (tmp_path / "b").chmod(0)
    assert names(open_source(str(tmp_path)), tmp_path) == ["a/1.jpg"]
    assert "1 folders that cannot be opened" in caplog.records[0].getMessage()


def test_a_folder_that_cannot_be_opened(tmp_path, caplog, monkeypatch):
    touch(tmp_path / "a/1.jpg", tmp_path / "b/2.jpg")
    real = os.scandir

    def scandir(place):
        if str(place).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(open_source(str(tmp_path)), tmp_path) == ["a/1.jpg"]
    assert "1 folders that cannot be opened (Permission denied)" in caplog.records[0].getMessage()


@pytest.mark.parametrize("name", ["s.tar", "s.csv", "s.txt", "s.parquet"])
def test_a_pipe_as_a_source_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert "not a regular file" in refusal(str(tmp_path / name))


def test_a_pipe_and_a_device_as_an_image(tmp_path):
    os.mkfifo(tmp_path / "1.jpg")
    for path in (tmp_path / "1.jpg", "/dev/zero"):
        with pytest.raises(BrokenImage, match="not a regular file"):
            read_image(path)
    with (tmp_path / "2.jpg").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BrokenImage, match="too many"):
        read_image(tmp_path / "2.jpg")


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_a_csv_from_any_program(tmp_path, separator, encoding):
    touch(tmp_path / "1.jpg", tmp_path / "2.jpg")
    lines = [("filename", "label"), ("1.jpg", "Bär"), ("2.jpg", "Käfer")]
    (tmp_path / "all.csv").write_bytes("\r\n".join(separator.join(line) for line in lines).encode(encoding))
    source = open_source(str(tmp_path / "all.csv"))
    assert names(source, tmp_path) == ["1.jpg", "2.jpg"]
    assert source.classes == ["Bär", "Käfer"]


def test_a_csv_in_latin_1_is_named(tmp_path, caplog):
    touch(tmp_path / "1.jpg")
    (tmp_path / "all.csv").write_bytes("filename,label\n1.jpg,Bär\n".encode("latin-1"))
    open_source(str(tmp_path / "all.csv"))
    assert "Latin-1" in caplog.records[0].getMessage()


@pytest.mark.parametrize("header", ["filename,label,label", "filename,filename,label"])
def test_a_csv_with_two_columns_of_one_name(tmp_path, header):
    touch(tmp_path / "1.jpg")
    assert "2 columns" in refusal(write_csv(tmp_path / "all.csv", header, "1.jpg,cat,dog"))


@pytest.mark.parametrize(
    ("image", "listed"), [("1.JPG", "1"), ("deep/1.png", "deep\\1.png"), ("deep/1.png", "deep\\1"), ("a.b.jpg", "a.b")]
)
def test_ids_and_windows_separators(tmp_path, image, listed):
    touch(tmp_path / "train" / image)
    source = open_source(write_csv(tmp_path / "train.csv", "filename,label", f"{listed},cat"))
    assert names(source, tmp_path / "train") == [image]


def test_a_looping_link_beside_a_csv(tmp_path):
    touch(tmp_path / "pictures/1.jpg")
    (tmp_path / "loop").symlink_to("loop")
    assert names(open_source(write_csv(tmp_path / "all.csv", "filename", "1.jpg")), tmp_path) == ["pictures/1.jpg"]


def test_a_text_file_with_labels(tmp_path):
    touch(tmp_path / "a b/1.jpg", tmp_path / "2.jpg")
    (tmp_path / "list.txt").write_text("a b/1.jpg 7\n2.jpg\t3\n")
    source = open_source(str(tmp_path / "list.txt"))
    assert names(source, tmp_path) == ["a b/1.jpg", "2.jpg"]
    assert labels_of(source) == ["7", "3"]
    touch(tmp_path / "3.jpg 4.jpg")
    (tmp_path / "list.txt").write_text("3.jpg 4.jpg\n")
    assert open_source(str(tmp_path / "list.txt")).labels is None  # a name with a blank in it


def test_names_with_dots_and_capitals_in_a_tar(tmp_path):
    files = {
        "img.001.jpg": b"x",
        "img.001.cls": b"cat",
        "img.002.jpg": b"x",
        "img.002.CLS": b"dog",
        "3.JPG": b"x",
        "3.CLS": b"fox",
    }
    assert labels_of(open_source(write_tar(tmp_path / "s.tar", files))) == ["cat", "dog", "fox"]


def test_floats_as_labels_in_a_tar(tmp_path):
    def shard(label) -> str:
        return write_tar(tmp_path / "s.tar", {"1.jpg": b"x", "1.json": json.dumps({"label": label}).encode()})

    assert labels_of(open_source(shard(3.0))) == ["3"]
    message = refusal(shard(0.5), need_labels=True)
    assert '"label" is 0.5, neither text nor a whole number' in message


def test_links_in_a_tar_are_counted(tmp_path, caplog):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        header = tarfile.TarInfo("3.jpg")
        header.size = 1
        tar.addfile(header, io.BytesIO(b"x"))
        header = tarfile.TarInfo("2.jpg")
        header.type, header.linkname = tarfile.SYMTYPE, "3.jpg"
        tar.addfile(header)
    (tmp_path / "s.tar").write_bytes(data.getvalue())
    assert len(open_source(str(tmp_path / "s.tar"))) == 1
    assert "1 images that are links" in caplog.records[0].getMessage()


def test_tars_joined_by_cat_are_read_one_after_the_other(tmp_path):
    parts = [{"1.jpg": b"a", "1.cls": b"cat"}, {"1.jpg": b"b" * 700, "1.cls": b"dog"}, {"2.jpg": b"c", "2.cls": b"cat"}]
    path, joined = tmp_path / "s.tar", b"".join(map(tar_of, parts))
    path.write_bytes(joined)
    source = open_source(str(path), need_labels=True)
    assert [read_bytes(location) for location in source.paths] == [b"a", b"b" * 700, b"c"]
    assert labels_of(source) == ["cat", "dog", "cat"]  # samples of one name in two archives are not one sample
    first = len(tar_of(parts[0]))
    for damaged in (joined[: first + 700], joined[: len(joined) - 9 * 1024], joined[:first] + b"no tar file"):
        path.write_bytes(damaged)
        assert f"{path} is cut short or no tar file" in refusal(str(path))


def with_size(size: bytes) -> bytes:
    """A tar whose first header has this size field, and a right checksum."""
    data = bytearray(tar_of({"1.cls": b"x", "1.jpg": b"y"}))
    data[124:136] = size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def test_sizes_in_a_tar_that_lie(tmp_path):
    (tmp_path / "s.tar").write_bytes(with_size((-512 & ((1 << 96) - 1)).to_bytes(12, "big")))
    assert "-512 bytes" in refusal(str(tmp_path / "s.tar"))
    (tmp_path / "s.tar").write_bytes(with_size(b"%011o\0" % (3 << 30)))
    with (tmp_path / "s.tar").open("r+b") as file:
        file.truncate(4 << 30)  # with holes
    assert "too many for a label" in refusal(str(tmp_path / "s.tar"))


@pytest.mark.parametrize("pattern", ["{000..999999999}.tar", "{0..9999999999999}.tar", "{0..99999}{0..99}.tar"])
def test_patterns_of_too_many_files(pattern):
    with pytest.raises(UserError, match="more than"):
        braces(pattern)


def test_a_row_that_names_a_file_outside_its_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    touch(tmp_path / "secret.png")
    make_folder(tmp_path / "set", per_class=1)
    paths = ["class0/000.png", "../secret.png", str(tmp_path / "secret.png")]
    features = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": path} for path in paths]}, features)
    rows.to_parquet(str(tmp_path / "set/all.parquet"))
    source = open_source(str(tmp_path / "set/all.parquet"))
    assert read_image(source.paths[0]).shape == (24, 24, 3)
    for path in source.paths[1:]:
        with pytest.raises(BrokenImage, match="outside"):
            read_image(path)


def test_why_a_folder_has_no_labels(tmp_path):
    touch(tmp_path / "a/1.jpg", tmp_path / "b/2.jpg", tmp_path / "stray.jpg")
    message = refusal(str(tmp_path), need_labels=True)
    assert "stray.jpg lies beside the class folders a, b" in message
    assert open_source(str(tmp_path)).unlabelled in message


@pytest.mark.parametrize("variable", ["DINOLAB_MAX_PIXELS", "DINOLAB_WHITE"])
def test_a_wrong_variable_is_named_before_images_are_loaded(variable, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, "many")
    with pytest.raises(UserError, match=f"^{variable}=many: a positive whole number"):
        open_source(str(make_folder(tmp_path / "images", per_class=2)))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("shards:photos", r"shards:photos: no \.tar files there"),
        ("dataset:photos", r"dataset:photos: no \.parquet files there"),
        ("csv:photos", r"csv:photos: a folder, and no source of this kind; leave `csv:` out"),
        ("folder:photos/0.png", r"folder:photos/0\.png: no folder, and no source of this kind; leave `folder:` out"),
    ],
)
def test_a_kind_that_does_not_fit_is_refused(
    path: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "0.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        open_source(path)
