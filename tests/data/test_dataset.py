"""Hugging Face datasets on disk as a source: what save_to_disk writes, and parquet files, however their columns are made."""

import json
import multiprocessing
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from dinolab.data.loader import batches
from dinolab.data.sources import dataset, open_source
from dinolab.data.sources.dataset import DATASET
from dinolab.data.storage import describe, read_bytes
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.options import Columns, Config
from tests.pictures import make_folder

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

PICTURES = [bytes([n]) * (50 + n) for n in range(5)]  # nothing here is decoded
KINDS = [2, 0, 1, 0, 2]
CLASSES = ["wolf", "Bär", "fox"]


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    calls: list[object] = []
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:  # by those, workers hand over tensors
            calls.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: calls.append(args))
    yield
    assert not calls


def image_set(**columns: Any) -> Any:
    """A dataset with a column `picture` of type Image and a column `label` of classes."""
    features = {"label": datasets.ClassLabel(names=CLASSES), "picture": datasets.Image()}
    rows = {"label": KINDS, "picture": [{"bytes": data, "path": None} for data in PICTURES]}
    for name, (feature, values) in columns.items():
        features[name], rows[name] = feature, values
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def write_parquet(path: Path, **columns: Any) -> str:
    """As other tools do: without the features that the datasets library keeps in the file."""
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def contents(source: Source) -> list[bytes]:
    return [read_bytes(path) for path in source.paths]


def labels_of(source: Source) -> list[str]:
    assert source.labels is not None
    return [source.classes[label] for label in source.labels]


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        open_source(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_save_to_disk(tmp_path):
    image_set().save_to_disk(tmp_path / "set", num_shards=2)
    source = open_source(str(tmp_path / "set"), need_labels=True)
    assert contents(source) == PICTURES
    assert source.classes == ["Bär", "fox", "wolf"]  # by name, as of other sources
    assert labels_of(source) == [CLASSES[kind] for kind in KINDS]
    assert describe(source.paths[3]) == f"{tmp_path / 'set'}, row 3"


def test_rows_in_another_order(tmp_path):
    image_set().select([4, 1, 0]).save_to_disk(tmp_path / "set")
    source = open_source(str(tmp_path / "set"))
    assert contents(source) == [PICTURES[4], PICTURES[1], PICTURES[0]]
    assert labels_of(source) == ["fox", "wolf", "fox"]


def test_parquet_files(tmp_path):
    for n, rows in enumerate((range(3), range(3, 5))):
        image_set().select(rows).to_parquet(tmp_path / f"train-0000{n}-of-00002.parquet")
    for path in ("", "*.parquet", "train-0000{0..1}-of-00002.parquet"):
        source = open_source(str(tmp_path / path), need_labels=True)
        assert contents(source) == PICTURES
        assert labels_of(source) == [CLASSES[kind] for kind in KINDS]
    source = open_source(str(tmp_path / "train-00001-of-00002.parquet"))
    assert contents(source) == PICTURES[3:]
    (tmp_path / "train-00000-of-00002.parquet").rename(tmp_path / "test-00000-of-00002.parquet")
    assert "test, train" in refusal(str(tmp_path))


def test_columns_without_features(tmp_path):
    pairs = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(PICTURES)]
    path = write_parquet(tmp_path / "a.parquet", id=list(range(5)), photo=pairs, label=KINDS)
    source = open_source(path)
    assert contents(source) == PICTURES
    assert labels_of(source) == ["2", "0", "1", "0", "2"]
    path = write_parquet(tmp_path / "b.parquet", mask=[b"m"] * 5, img=PICTURES, label=["x", "y", "x", "y", "z"])
    source = open_source(path)
    assert contents(source) == PICTURES
    assert labels_of(source) == ["x", "y", "x", "y", "z"]
    message = refusal(write_parquet(tmp_path / "c.parquet", id=[1], mask=[b"m"]))
    assert all(word in message for word in ("c.parquet", "id, mask", "img"))


def test_label_columns(tmp_path):
    more = {
        "kind": (datasets.Value("string"), ["a", "b", "a", "b", "a"]),
        "hole": (datasets.Value("string"), ["a", "b", None, "b", ""]),
        "size": (datasets.Value("float32"), [0.5] * 5),
        "coarse": (datasets.ClassLabel(names=["pet", "pest"]), [0, 1, 1, -1, 0]),
        "fine": (datasets.ClassLabel(names=["pet", "pest"]), [0, 1, 1, 0, 1]),
    }
    image_set(**more).save_to_disk(tmp_path / "set")
    path, facts = str(tmp_path / "set"), tmp_path / "set" / "dataset_info.json"
    content = json.loads(facts.read_text())
    content["features"]["fine"]["names"] = ["pet"]  # and rows that hold a second class
    facts.write_text(json.dumps(content))
    assert labels_of(open_source(path, Columns(label_column="kind"))) == ["a", "b", "a", "b", "a"]
    for column, words in {
        "hole": ("'hole'", "row 2"),
        "coarse": ("'coarse'", "row 3"),  # -1: a test set's hidden label
        "fine": ("'fine'", "row 1"),
        "size": ("'size'",),
        "none": ("'none'", "picture", "data.label_column"),
    }.items():
        assert open_source(path, Columns(label_column=column)).labels is None
        message = refusal(path, Columns(label_column=column), need_labels=True, option="eval.test")
        assert all(word in message for word in ("eval.test", *words))


def test_image_columns(tmp_path):
    masks = [bytes([100 + n]) * 9 for n in range(5)]
    more = {
        "mask": (datasets.Image(), [{"bytes": data, "path": None} for data in masks]),
        "raw": (datasets.Value("binary"), masks[::-1]),
    }
    image_set(**more).save_to_disk(tmp_path / "set")
    path, cache = str(tmp_path / "set"), tmp_path / "sources.json.gz"
    usual = open_source(path, cache=cache)
    assert contents(usual) == PICTURES and usual.read_by == {}
    found = {name: open_source(path, Columns(image_column=name), cache) for name in ("picture", "mask", "raw")}
    assert {name: contents(source) for name, source in found.items()} == {
        "picture": PICTURES,
        "mask": masks,
        "raw": masks[::-1],
    }
    assert contents(usual) == PICTURES  # whichever was opened last
    assert labels_of(found["mask"]) == labels_of(usual) and found["mask"].read_by == {"image_column": "mask"}
    assert found["mask"].names() == usual.names()
    assert describe(found["mask"].paths[3]) == f"{path}, row 3"
    assert "data.image_column=mask?" in refusal(path, Columns(image_column="masks"))
    assert "'label' holds no images" in refusal(path, Columns(image_column="label"), option="test")


def test_a_damaged_table_does_not_end_the_process(tmp_path):
    """Arrow itself would read beyond the buffer of offsets, whose length is 0 here."""
    image_set().save_to_disk(tmp_path / "set")
    (file,) = (tmp_path / "set").glob("*.arrow")
    file.write_bytes(file.read_bytes().replace(struct.pack("<q", 4 * (len(PICTURES) + 1)), bytes(8)))
    with pytest.raises(OSError, match="too small"):
        read_bytes(open_source(str(tmp_path / "set")).paths[0])


def test_rows_that_name_files_and_rows_without_an_image(tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"absolute")
    (tmp_path / "1.jpg").write_bytes(b"relative")
    rows = [{"bytes": None, "path": path} for path in (str(tmp_path / "0.jpg"), "1.jpg", "2.jpg")]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    path = write_parquet(tmp_path / "a.parquet", image=pyarrow.array([*rows, None], kind))
    source = open_source(path)
    assert [read_bytes(location) for location in source.paths[:2]] == [b"absolute", b"relative"]
    for row in (2, 3):
        with pytest.raises(OSError, match="2.jpg" if row == 2 else "no image"):
            read_bytes(source.paths[row])
    with pytest.raises(OSError, match="4"):
        read_bytes(f"dataset\0{path}\0004")


def test_several_splits(tmp_path):
    datasets.DatasetDict({"train": image_set(), "test": image_set()}).save_to_disk(tmp_path / "sets")
    message = refusal(str(tmp_path / "sets"), option="eval.train")
    assert message.startswith(f"eval.train={tmp_path / 'sets'}")
    assert all(str(tmp_path / "sets" / split) in message for split in ("train", "test"))
    assert len(open_source(str(tmp_path / "sets/test"))) == 5


def test_damaged(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    assert "magic bytes" in refusal(str(tmp_path / "a.parquet"))  # the cause, not only that there is one
    image_set().save_to_disk(tmp_path / "set")
    (tmp_path / "set/data-00000-of-00001.arrow").write_bytes(b"no table")
    assert str(tmp_path / "set") in refusal(str(tmp_path / "set"))
    write_parquet(tmp_path / "none.parquet", image=pyarrow.array([], pyarrow.binary()))
    assert "none.parquet" in refusal(str(tmp_path / "none.parquet"))


def test_without_the_library(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "a.parquet", image=PICTURES)
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refusal(path)
    assert "pip install" in message
    assert path in message


def test_cache(tmp_path, monkeypatch):
    path, cache = tmp_path / "a.parquet", tmp_path / "sources.json.gz"
    write_parquet(path, image=PICTURES, label=KINDS)
    first = open_source(str(path), cache=cache)
    with monkeypatch.context() as patched:
        patched.setattr(DATASET, "list_images", None)  # the cache answers
        again = open_source(str(path), cache=cache)
    assert (again.paths, again.classes) == (first.paths, first.classes)
    assert contents(again) == PICTURES
    write_parquet(path, image=PICTURES[:2], label=[7, 8])
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))  # whatever the resolution of the file system's clock
    changed = open_source(str(path), cache=cache)
    assert contents(changed) == PICTURES[:2]
    assert changed.classes == ["7", "8"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes(tmp_path, method):
    image_set().save_to_disk(tmp_path / "set")
    source = open_source(str(tmp_path / "set"))
    read_bytes(source.paths[0])  # a forked process inherits it open
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(read_bytes, source.paths) == PICTURES


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_files(tmp_path, workers):
    folder = open_source(str(make_folder(tmp_path / "images", per_class=9)))
    pictures = [{"bytes": Path(path).read_bytes(), "path": None} for path in folder.paths]
    rows = datasets.Dataset.from_dict({"image": pictures}, features=datasets.Features({"image": datasets.Image()}))
    rows.save_to_disk(tmp_path / "set")
    cfg = Config()
    cfg.optim.batch_size, cfg.model.patch_size = 6, 4
    cfg.views.global_size, cfg.views.local_size, cfg.views.locals = 16, 8, 2
    steps = [list(batches(s, cfg, 2, 5, n)) for s, n in ((folder, 0), (open_source(str(tmp_path / "set")), workers))]
    for (a,), (b,) in zip(*steps, strict=True):
        assert not b.broken
        assert all(torch.equal(x, y) for x, y in zip(a, b) if isinstance(x, torch.Tensor))


def test_opened_once(tmp_path, monkeypatch):
    image_set().save_to_disk(tmp_path / "set")
    source = open_source(str(tmp_path / "set"))
    calls, real = [], dataset.open_table
    monkeypatch.setattr(dataset, "open_table", lambda *args: (calls.append(1), real(*args))[1])
    for _ in range(3):
        assert contents(source) == PICTURES
    assert len(calls) == 1
