"""Kinds of source: which one reads a path, and that a new one is a file and a line in KINDS."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.loader import batches
from dinolab.data.sources import open_source, stratified_split, subset
from dinolab.data.sources.kinds import KINDS, choose_kind
from dinolab.data.storage import describe, read_bytes
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.options import Config
from dinolab.pixels import RGB, Pixels
from tests.data.tars import write_tar
from tests.pictures import make_folder
from tests.toy.source import TOY


@pytest.fixture
def toy(monkeypatch) -> None:
    monkeypatch.setitem(KINDS, "toy", TOY)


def tiny() -> Config:
    cfg = Config()
    cfg.optim.batch_size, cfg.model.patch_size = 4, 4
    cfg.views.global_size, cfg.views.local_size, cfg.views.locals = 16, 8, 2
    return cfg


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("list.txt", "text"),
        ("all.CSV", "csv"),
        ("a.tar", "shards"),
        ("t-{0..3}.tar", "shards"),
        ("a.tar.gz", "shards"),
        ("a.parquet", "dataset"),
        ("train-*.parquet", "dataset"),
        ("s3://bucket/folder", "shards"),
        ("simplecache::s3://bucket/v1.0", "shards"),
        ("s3://bucket/all.csv", "csv"),  # which refuses it with a message of its own
    ],
)
def test_the_kind_of_a_file_a_pattern_or_an_address(path, kind):
    assert choose_kind(path, "") == (kind, path)


def test_the_kind_of_a_folder(tmp_path):
    def kind(*names: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return choose_kind(str(folder), "")[0]

    assert kind("a/1.jpg", "b/2.jpg") == "folder"
    assert kind("0.tar", "1.tar") == "shards"
    assert kind("0.parquet") == "dataset"
    assert kind("0.tar", "0.parquet") == "shards"  # tables of facts beside shards
    assert kind("state.json", "data.arrow", "1.jpg") == "dataset"
    assert kind("0.tar", "a/1.jpg") == "folder"
    assert kind("0.parquet", "1.jpg") == "folder"


def test_a_prefix_chooses_the_kind(tmp_path):
    folder = make_folder(tmp_path / "images", per_class=2)
    (tmp_path / "images/list.data").write_text("class0/000.png\n")
    write_tar(tmp_path / "images/a.tar", {"1.jpg": b"x"})
    assert len(open_source(f"folder:{folder}")) == 4
    assert len(open_source(f"shards:{folder}")) == 1
    source = open_source(f"text:{folder}/list.data")
    assert source.paths == [str(folder / "class0/000.png")]
    assert source.name == f"text:{folder}/list.data"
    with pytest.raises(UserError, match="no such file"):
        open_source(f"folder:{tmp_path}/gone")


@pytest.mark.parametrize("path", ["hf:some/set", "C:\\images", "other:12"])
def test_other_prefixes_are_no_kinds(path):
    with pytest.raises(UserError, match="no such file or folder") as caught:
        open_source(path, option="eval.test")
    assert str(caught.value).startswith(f"eval.test={path}")


def test_a_location_of_an_unknown_kind_is_a_broken_image():
    assert describe("lost\0a\0b") == "lost a b"
    with pytest.raises(BrokenImage, match="'lost'"):
        read_image("lost\0a\0b")


def test_a_new_kind_is_opened_and_read(toy):
    source = open_source("toy:6", need_labels=True)
    assert source.paths == [f"toy\0{'red' if n % 2 else 'blue'}\0{n}" for n in range(6)]
    assert source.classes == ["blue", "red"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1] * 3
    assert source.names() == ["blue/0", "red/1", "blue/2", "red/3", "blue/4", "red/5"]
    assert source.pixels == RGB
    assert describe(source.paths[3]) == "generated image 3"
    means = [read_image(path).mean((0, 1)) for path in source.paths]
    assert [int(mean.argmax()) for mean in means] == [2, 0] * 3  # blue, red
    with pytest.raises(UserError, match=r"eval\.test=toy:many: give the number"):
        open_source("toy:many", option="eval.test")


def test_the_pixels_of_a_kind_are_those_of_its_sources(toy, monkeypatch):
    grey = Pixels(channels=1, mean=(0.5,), deviation=(0.5,))
    monkeypatch.setattr(TOY, "pixels", grey, raising=False)
    assert open_source("toy:6").pixels == subset(open_source("toy:6"), 3, seed=0).pixels == grey


def test_a_new_kind_is_listed_once(toy, tmp_path, monkeypatch):
    cache = tmp_path / "sources.json.gz"
    first = open_source("toy:6", cache=cache)
    with monkeypatch.context() as patched:
        patched.setattr(TOY, "list_images", None)
        assert open_source("toy:6", cache=cache).paths == first.paths
    assert len(open_source("toy:8", cache=cache)) == 8


def test_a_new_kind_that_fails_to_read_is_a_broken_image(toy, monkeypatch):
    monkeypatch.setattr(TOY, "read", lambda parts: 1 / 0)
    with pytest.raises(BrokenImage, match="generated image 1: division"):
        read_image(open_source("toy:6").paths[1])


def as_files(source: Source, folder: Path) -> Source:
    """The same images as files."""
    folder.mkdir()
    paths = [str(folder / f"{n}.png") for n in range(len(source))]
    for path, location in zip(paths, source.paths):
        Path(path).write_bytes(read_bytes(location))
    return Source("files", paths, source.labels, source.classes)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_new_kind_are_those_of_files(toy, tmp_path, workers):
    source = open_source("toy:10")
    files = as_files(source, tmp_path / "files")
    steps = zip(batches(files, tiny(), 1, 5, 0), batches(source, tiny(), 1, 5, workers), strict=True)
    for (a,), (b,) in steps:
        assert not b.broken
        assert all(torch.equal(x, y) for x, y in zip(a, b) if isinstance(x, torch.Tensor))


def test_a_new_kind_is_split_and_drawn_from(toy):
    source = open_source("toy:20")
    train, test = stratified_split(source, 0.2)
    assert (len(train), len(test)) == (16, 4)
    assert test.labels is not None
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert all(location.startswith("toy\0") for location in subset(source, 5, seed=0).paths)
    assert train.fingerprint() != test.fingerprint()
