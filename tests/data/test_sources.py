"""Folders, text files and CSV files as sources; the cache; splits; every mistake one clear line."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from dinolab import progress
from dinolab.data.sources import open_source, stratified_split, subset
from dinolab.data.sources.kinds import KINDS
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.options import Columns


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(source: Source, root: Path) -> list[str]:
    return [os.path.relpath(path, root) for path in source.paths]


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        open_source(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folder(tmp_path):
    touch(
        *(
            tmp_path / n
            for n in ("b/deep/down/2.PNG", "b/1.jpg", "a/3.webp", "a/notes.txt", "a/.hidden.jpg", ".h/4.jpg")
        )
    )
    source = open_source(str(tmp_path))
    assert names(source, tmp_path) == ["a/3.webp", "b/1.jpg", "b/deep/down/2.PNG"]
    assert source.classes == ["a", "b"]
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 1, 1]
    assert source.name == str(tmp_path)


def test_folder_order_is_not_the_file_systems(tmp_path):
    files = [f"{c}/{n}.jpg" for c in "ab" for n in range(40)]
    touch(*(tmp_path / files[n] for n in np.random.default_rng(0).permutation(len(files))))
    assert names(open_source(str(tmp_path)), tmp_path) == sorted(files)


@pytest.mark.parametrize("files", [["1.jpg", "2.jpg"], ["a/1.jpg", "a/2.jpg"], ["a/1.jpg", "b/2.jpg", "3.jpg"]])
def test_folder_without_classes(tmp_path, files):
    touch(*(tmp_path / name for name in files))
    source = open_source(str(tmp_path))
    assert len(source) == len(files)
    assert source.labels is None
    assert source.classes == []
    assert "data.path" in refusal(str(tmp_path), need_labels=True)


def test_folder_with_a_link_to_itself(tmp_path):
    touch(tmp_path / "a/1.jpg")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert names(open_source(str(tmp_path)), tmp_path) == ["a/1.jpg"]


def test_linked_class_folder(tmp_path):
    touch(tmp_path / "far/1.jpg", tmp_path / "data/b/2.jpg")
    (tmp_path / "data/a").symlink_to(tmp_path / "far")
    assert names(open_source(str(tmp_path / "data")), tmp_path / "data") == ["a/1.jpg", "b/2.jpg"]


def test_text_file(tmp_path):
    touch(tmp_path / "x/1.jpg", tmp_path / "2.jpg")
    (tmp_path / "list.txt").write_text(f"x/1.jpg\n\n{tmp_path / '2.jpg'}\n")
    source = open_source(str(tmp_path / "list.txt"))
    assert names(source, tmp_path) == ["x/1.jpg", "2.jpg"]
    assert source.labels is None
    (tmp_path / "list.txt").write_text("1.jpg\n")
    assert "data.images" in refusal(str(tmp_path / "list.txt"))
    assert names(open_source(str(tmp_path / "list.txt"), Columns(images=str(tmp_path / "x"))), tmp_path) == ["x/1.jpg"]


def write_csv(path: Path, *rows: str) -> str:
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def test_csv_order_and_labels(tmp_path):
    touch(*(tmp_path / f"{n}.jpg" for n in range(3)))
    path = write_csv(tmp_path / "all.csv", "filename,label", "2.jpg,dog", '0.jpg,"cat, big"', "1.jpg,dog")
    source = open_source(path)
    assert names(source, tmp_path) == ["2.jpg", "0.jpg", "1.jpg"]
    assert source.classes == ["cat, big", "dog"]
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("csv", "place"),
    [
        ("Training_set.csv", "train"),
        ("Testing_labels.csv", "test"),
        ("Testing_set.csv", "test"),
        ("other.csv", "."),
        ("other.csv", "pictures"),
    ],
)
def test_where_the_images_of_a_csv_are(tmp_path, csv, place):
    touch(tmp_path / place / "1.jpg", tmp_path / "unrelated" / "2.jpg")
    source = open_source(write_csv(tmp_path / csv, "filename", "1.jpg"))
    assert source.paths == [os.path.normpath(tmp_path / place / "1.jpg")]


def test_the_folder_alike_goes_first(tmp_path):
    touch(*(tmp_path / place / "1.jpg" for place in ("train", "test", ".")))
    source = open_source(write_csv(tmp_path / "Training_set.csv", "filename", "1.jpg"))
    assert source.paths == [str(tmp_path / "train/1.jpg")]
    source = open_source(
        write_csv(tmp_path / "Training_set.csv", "filename", "1.jpg"), Columns(images=str(tmp_path / "test"))
    )
    assert source.paths == [str(tmp_path / "test/1.jpg")]


def test_two_folders_that_could_be_meant(tmp_path):
    touch(tmp_path / "one/1.jpg", tmp_path / "two/1.jpg")
    message = refusal(write_csv(tmp_path / "all.csv", "filename", "1.jpg"))
    assert all(word in message for word in ("all.csv", "one", "two", "data.images"))


def test_a_first_file_that_vanished_is_left_to_the_reader(tmp_path):
    touch(tmp_path / "2.jpg")
    assert len(open_source(write_csv(tmp_path / "all.csv", "filename", "1.jpg", "2.jpg"))) == 2


def test_csv_columns(tmp_path):
    touch(tmp_path / "1.jpg")
    path = write_csv(tmp_path / "all.csv", "\ufefffile,kind", "1.jpg,cat")
    message = refusal(path)
    assert all(word in message for word in ("all.csv", "'filename'", "file, kind", "data.filename_column"))
    source = open_source(path, Columns(filename_column="file"))
    assert source.labels is None
    message = refusal(path, Columns(filename_column="file"), need_labels=True, option="eval.train")
    assert all(word in message for word in ("eval.train", "'label'", "file, kind", "data.label_column"))
    assert open_source(path, Columns(filename_column="file", label_column="kind"), need_labels=True).classes == ["cat"]


def test_csv_with_holes(tmp_path):
    touch(tmp_path / "1.jpg")
    path = write_csv(tmp_path / "all.csv", "filename,label", "1.jpg,cat", "2.jpg,")
    assert open_source(path).labels is None
    assert "line 3" in refusal(path, need_labels=True)
    assert "line 3" in refusal(write_csv(tmp_path / "all.csv", "filename,label", "1.jpg,cat", ",dog"))


def test_refusals_name_the_option_and_the_path(tmp_path):
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "notes.doc", tmp_path / "empty.csv", tmp_path / "empty.txt")
    write_csv(tmp_path / "header.csv", "filename,label")
    (tmp_path / "latin.csv").write_bytes("filename\nä.jpg\n".encode("latin-1"))
    for name in ("empty", "gone", "notes.doc", "empty.csv", "empty.txt", "header.csv", "latin.csv"):
        message = refusal(str(tmp_path / name), option="eval.test")
        assert message.startswith(f"eval.test={tmp_path / name}")


def counted(monkeypatch, kind: str) -> list[int]:
    """A list that grows by one whenever this kind of source is listed."""
    calls: list[int] = []
    real = KINDS[kind].list_images
    monkeypatch.setattr(KINDS[kind], "list_images", lambda *args: (calls.append(1), real(*args))[1])
    return calls


def same(a: Source, b: Source) -> bool:
    return a.paths == b.paths and a.classes == b.classes and np.array_equal(a.labels, b.labels)


def test_folder_cache(tmp_path, monkeypatch):
    root, cache = tmp_path / "data", tmp_path / "run" / "sources.json.gz"
    touch(root / "a/1.jpg", root / "b/deep/2.jpg")
    calls = counted(monkeypatch, "folder")
    first = open_source(str(root), cache=cache)
    assert os.listdir(cache.parent) == [cache.name]
    assert same(open_source(str(root), cache=cache), first)
    assert len(calls) == 1

    def later(folder: Path) -> None:  # whatever the resolution of the file system's clock
        os.utime(folder, ns=(0, folder.stat().st_mtime_ns + 10**9))

    touch(root / "b/deep/3.jpg")
    later(root / "b/deep")
    assert len(open_source(str(root), cache=cache)) == 3
    (root / "a/1.jpg").unlink()
    touch(root / "a/4.jpg", root / "c/5.jpg")
    later(root / "a")
    later(root)
    source = open_source(str(root), cache=cache)
    assert names(source, root) == ["a/4.jpg", "b/deep/2.jpg", "b/deep/3.jpg", "c/5.jpg"]
    assert len(calls) == 3
    touch(tmp_path / "other/1.jpg")
    assert len(open_source(str(tmp_path / "other"), cache=cache)) == 1


def test_csv_cache(tmp_path, monkeypatch):
    cache = tmp_path / "sources.json.gz"
    touch(tmp_path / "data/x/1.jpg", tmp_path / "data/y/2.jpg")
    path = write_csv(tmp_path / "data/all.csv", "filename,label,kind", "1.jpg,cat,tame")
    calls = counted(monkeypatch, "csv")
    first = open_source(path, cache=cache)
    assert same(open_source(path, cache=cache), first)
    assert len(calls) == 1
    assert open_source(path, Columns(label_column="kind"), cache=cache).classes == ["tame"]
    assert len(calls) == 2
    write_csv(Path(path), "filename,label", "2.jpg,horse")
    assert open_source(path, cache=cache).classes == ["horse"]
    (tmp_path / "data/y").rename(tmp_path / "data/z")  # the file is the same, but its images have moved
    assert open_source(path, cache=cache).paths == [str(tmp_path / "data/z/2.jpg")]


def test_damaged_cache_is_ignored(tmp_path):
    root, cache = tmp_path / "data", tmp_path / "sources.json.gz"
    touch(root / "a/1.jpg", root / "b/2.jpg")
    first = open_source(str(root), cache=cache)
    whole = cache.read_bytes()
    wrong = [gzip.compress(json.dumps(x).encode()) for x in ([], {}, {"key": 1}, {"key": [], "listing": []}, None)]
    for data in [b"", b"text", whole[: len(whole) // 2], whole[:-6], gzip.compress(b"{"), *wrong]:
        cache.write_bytes(data)
        assert same(open_source(str(root), cache=cache), first)
        assert cache.read_bytes() != data


def test_progress_shows_only_when_slow(tmp_path, monkeypatch, capsys):
    touch(*(tmp_path / f"{n}.jpg" for n in range(1000)))
    open_source(str(tmp_path))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    open_source(str(tmp_path))
    out, err = capsys.readouterr()
    assert out == ""
    assert "1,000 images" in " ".join(err.split())


def labelled(*counts: int) -> Source:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return Source("it", [f"/{n}" for n in range(len(labels))], labels, [f"class{n}" for n in range(len(counts))])


def test_stratified_split():
    source = labelled(10, 2, 3, 95)
    train, test = stratified_split(source, 0.2)
    assert sorted(train.paths + test.paths) == sorted(source.paths)
    assert not set(train.paths) & set(test.paths)
    assert test.labels is not None
    assert train.labels is not None
    assert np.bincount(test.labels).tolist() == [2, 1, 1, 19]
    assert np.bincount(train.labels).tolist() == [8, 1, 2, 76]
    label = dict(zip(source.paths, source.labels))
    assert all(label[path] == of for part in (train, test) for path, of in zip(part.paths, part.labels))
    again = stratified_split(source, 0.2)
    assert same(again[0], train)
    assert same(again[1], test)
    assert stratified_split(source, 0.2, seed=1)[1].paths != test.paths


def test_split_refusals():
    with pytest.raises(UserError, match="'class1'"):
        stratified_split(labelled(5, 1, 5))
    with pytest.raises(UserError, match="no labels"):
        stratified_split(Source("it", ["/1"], None, []))


def test_subset():
    source = labelled(500, 500)
    part = subset(source, 100, seed=0)
    where = [int(path[1:]) for path in part.paths]
    assert len(part) == 100
    assert where == sorted(set(where))
    assert part.labels is not None
    assert source.labels is not None
    assert part.labels.tolist() == source.labels[where].tolist()
    assert subset(source, 100, seed=0).paths == part.paths
    assert subset(source, 100, seed=1).paths != part.paths
    assert subset(source, 1000, seed=0) is source
    hits = np.zeros(1000)
    for seed in range(200):
        hits[[int(path[1:]) for path in subset(source, 100, seed).paths]] += 1
    # each image is in 20 of 200 subsets, give or take 4.2; blocks of 100 images in 2000, give or take 42 at most
    assert np.abs(hits.reshape(10, 100).sum(1) - 2000).max() < 170


def test_har(har):
    train = open_source(str(har / "Training_set.csv"), need_labels=True)
    assert (len(train), len(train.classes)) == (5700, 15)
    assert Path(train.paths[0]).parent == har / "train"
    test = open_source(str(har / "Testing_set.csv"))
    assert (len(test), test.labels) == (1500, None)
    answers = open_source(str(har / "Testing_labels.csv"), need_labels=True)
    assert answers.paths == test.paths
    assert answers.classes == train.classes
    assert all(os.path.exists(path) for path in train.paths + test.paths)
    parts = stratified_split(train)
    assert [len(part) for part in parts] == [4560, 1140]
