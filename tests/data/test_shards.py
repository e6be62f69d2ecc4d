"""WebDataset shards as a source: the layout, labels, the index and its cache, batches, every mistake one clear line."""

import bz2
import gzip
import io
import lzma
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from dinolab.data.loader import batches
from dinolab.data.samples import MicroBatches
from dinolab.data.sources import open_source
from dinolab.data.sources.shards import SHARDS
from dinolab.data.storage import describe, read_bytes
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.options import Columns, Config
from tests.data.tars import tar_of, write_tar
from tests.pictures import make_folder


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        open_source(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labels_of(source: Source) -> list[str]:
    assert source.labels is not None
    return [source.classes[label] for label in source.labels]


def names_of(source: Source) -> list[str]:
    return [path.split("\0")[3] for path in source.paths]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_as_the_webdataset_library_reads_it(tmp_path, format):
    webdataset = pytest.importorskip("webdataset")
    files: dict[str, bytes] = {}
    for n in range(12):
        key = f"{'deep/' * (n % 3)}{'long' * 20 * (n % 2)}{n:03d}"
        if format != tarfile.USTAR_FORMAT and n % 4 == 1:
            key = f"{'very/long/' * 30}ü{n}"
        files |= {f"{key}.jpg": bytes([n]) * (n * 300 + 1), f"{key}.cls": b"%d" % (n % 3)}
    shards = [write_tar(tmp_path / "0.tar", dict(list(files.items())[:10]), format)]
    shards.append(write_tar(tmp_path / "1.tar", dict(list(files.items())[10:]), format))
    expected = [(sample["jpg"], sample["cls"].decode()) for sample in webdataset.WebDataset(shards, shardshuffle=False)]
    source = open_source(str(tmp_path), need_labels=True)
    assert [(read_bytes(path), label) for path, label in zip(source.paths, labels_of(source))] == expected
    assert names_of(source) == [name for name in files if name.endswith("jpg")]


def test_labels(tmp_path):
    files = {
        "0.jpg": b"x", "0.cls": b" cat\n",
        "1.cls": "Bär".encode(), "1.PNG": b"x",
        "2.json": b'{"label": "dog", "cls": 7, "kind": "tame"}', "2.webp": b"x",
        "3.jpg": b"x", "3.json": b'{"cls": 7, "kind": "wild"}',
        "4.json": b'{"label": "fox", "kind": 5}', "4.cls": b"cat", "4.jpg": b"x",
        "5.cls": b"cow", "5.json": b'{"label": "fox", "kind": "wild"}', "5.jpg": b"x",
    }  # fmt: skip
    shard = write_tar(tmp_path / "a.tar", files)
    source = open_source(shard, need_labels=True)
    assert labels_of(source) == ["cat", "Bär", "dog", "7", "cat", "cow"]
    assert source.classes == sorted(source.classes)
    other = open_source(
        write_tar(tmp_path / "b.tar", {k: v for k, v in files.items() if k[0] in "23"}), Columns(label_column="kind")
    )
    assert labels_of(other) == ["tame", "wild"]


@pytest.mark.parametrize(
    "label", [b'{"label": null}', b'{"label": [1]}', b'{"label": 0.5}', b"{", b"[]", b'"label"', b"\xff"]
)
def test_no_labels_in_json(tmp_path, label):
    source = write_tar(tmp_path / "a.tar", {"1.jpg": b"x", "1.json": label})
    assert open_source(source).labels is None
    message = refusal(source, Columns(label_column="kind"), need_labels=True, option="eval.test")
    assert message.startswith(f"eval.test={source} has no labels")
    assert all(word in message for word in (".cls", '"kind"', '"cls"'))


def test_labels_of_some_images_are_none(tmp_path):
    shard = write_tar(tmp_path / "a.tar", {"1.jpg": b"x", "1.cls": b"cat", "2.jpg": b"x", "2.cls": b" "})
    assert open_source(shard).labels is None
    assert f"{shard}: 2.jpg" in refusal(shard, need_labels=True)


def test_what_is_a_sample(tmp_path, caplog):
    files = {
        "1.left.jpg": b"l", "1.cls": b"cat", "1.right.jpg": b"r",  # two images: two samples of one label
        "2.txt": b"no image", "2.cls": b"cat", "3.npy": b"none either",
        "README": b"no sample", "__MACOSX/._4.jpg": b"nor this",
        "4.cls": b"dog", "a/4.cls": b"fox", "a/4.jpg": b"a", "4.jpeg": b"4",  # not side by side
    }  # fmt: skip
    source = open_source(write_tar(tmp_path / "s.tar", files), need_labels=True)
    assert names_of(source) == ["1.left.jpg", "1.right.jpg", "4.jpeg", "a/4.jpg"]
    assert labels_of(source) == ["cat", "cat", "dog", "fox"]
    (record,) = caplog.records
    assert "2 samples without an image" in record.getMessage()
    assert str(tmp_path) in record.getMessage()


def test_links_and_folders_in_a_tar(tmp_path):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, kind in (("a", tarfile.DIRTYPE), ("a/1.jpg", tarfile.SYMTYPE), ("2.jpg", tarfile.LNKTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "3.jpg"
            tar.addfile(header)
        header = tarfile.TarInfo("3.jpg")
        header.size = 1
        tar.addfile(header, io.BytesIO(b"x"))
    (tmp_path / "s.tar").write_bytes(data.getvalue())
    assert names_of(open_source(str(tmp_path / "s.tar"))) == ["3.jpg"]


def test_folder_file_and_patterns(tmp_path):
    for n in range(3):
        write_tar(tmp_path / f"t-{n}.tar", {f"{n}.jpg": b"x"})
    (tmp_path / "sizes.json").write_text("{}")

    def names(path: str) -> list[str]:
        return names_of(open_source(str(tmp_path / path)))

    assert names("") == names("*.tar") == names("t-{0..2}.tar") == ["0.jpg", "1.jpg", "2.jpg"]
    assert names("t-1.tar") == ["1.jpg"]
    assert names("t-{2,0}.tar") == ["2.jpg", "0.jpg"]
    assert "t-3.tar" in refusal(str(tmp_path / "t-{0..3}.tar"))
    assert "no such file" in refusal(str(tmp_path / "t-9.tar"))
    assert "u-*.tar" in refusal(str(tmp_path / "u-*.tar"))


def test_images_go_before_shards(tmp_path, caplog):
    write_tar(tmp_path / "rest.tar", {"1.jpg": b"x"})
    (tmp_path / "notes/older").mkdir(parents=True)
    assert names_of(open_source(str(tmp_path))) == ["1.jpg"]
    assert not caplog.records
    make_folder(tmp_path / "images", per_class=2)
    assert len(open_source(str(tmp_path))) == 4
    assert [record.getMessage().count("*.tar") for record in caplog.records] == [1]


def test_several_splits_in_a_folder_are_not_mixed(tmp_path):
    for name in ("train-0.tar", "train-1.tar", "test-0.tar", "trainers.tar"):
        write_tar(tmp_path / name, {f"{name}.jpg": b"x"})
    message = refusal(str(tmp_path))
    assert all(word in message for word in ("test, train", "test*.tar"))
    assert len(open_source(str(tmp_path / "train-*.tar"))) == 2
    assert len(open_source(str(tmp_path / "*.tar"))) == 4


@pytest.mark.parametrize("squeeze", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed(tmp_path, squeeze):
    for name in ("s.tar", "s.tar.gz", "s.tgz"):
        path = tmp_path / name
        path.write_bytes(squeeze(tar_of({"1.jpg": b"x"})))
        message = refusal(str(path))
        assert all(word in message for word in (name, "compressed", "decompress"))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_cut_short_anywhere(tmp_path, format):
    whole = tar_of({"1.jpg": b"x" * 700, "ü" * 40 + ".jpg": b"y" * 513, "2.cls": b"cat"}, format)
    end = len(whole.rstrip(b"\0"))
    end += -end % 512 + 512  # with one block of zeros, the least that marks an end
    good, path = write_tar(tmp_path / "good.tar", {"0.jpg": b"x"}), tmp_path / "s.tar"
    for size in (*range(0, end, 100), *range(0, end, 512), end - 1):
        path.write_bytes(whole[:size])
        message = refusal(str(tmp_path / "{good,s}.tar"))
        assert str(path) in message
        assert good not in message
    path.write_bytes(whole[:end])
    assert len(open_source(str(tmp_path))) == 3


def test_damaged_in_the_middle(tmp_path):
    whole = bytearray(tar_of({"1.jpg": b"x", "2.jpg": b"y", "3.jpg": b"z"}))
    whole[1024:1030] = b"broken"
    (tmp_path / "s.tar").write_bytes(whole)
    assert str(tmp_path / "s.tar") in refusal(str(tmp_path))
    (tmp_path / "s.tar").write_bytes(np.random.default_rng(0).bytes(5000))
    assert str(tmp_path / "s.tar") in refusal(str(tmp_path))
    write_tar(tmp_path / "s.tar", {"1.txt": b"x"})
    assert "no images" in refusal(str(tmp_path))


def test_names_and_labels_that_are_no_text(tmp_path):
    """PAX headers can hold a zero byte, and JSON half a character."""
    shard = tar_of({"1@.jpg": b"x", "ü" * 60 + "@.jpg": b"x"}, tarfile.PAX_FORMAT)
    (tmp_path / "a.tar").write_bytes(shard.replace("ü@".encode(), b"\xc3\xbc\0"))
    assert "a.tar is cut short or no tar file (the name " in refusal(str(tmp_path))
    shard = write_tar(tmp_path / "b.tar", {"1.jpg": b"x", "1.json": rb'{"label": "\ud800"}'})
    assert labels_of(open_source(shard)) == ["?"]


def test_cache(tmp_path, monkeypatch):
    cache, calls = tmp_path / "run" / "sources.json.gz", []
    real = SHARDS.list_images
    monkeypatch.setattr(SHARDS, "list_images", lambda *args: (calls.append(1), real(*args))[1])
    for n in range(2):
        write_tar(tmp_path / f"s-{n}.tar", {f"{n}.jpg": b"x", f"{n}.cls": b"%d" % n})
    first = open_source(str(tmp_path), cache=cache)
    again = open_source(str(tmp_path), cache=cache)
    assert len(calls) == 1
    assert (again.paths, again.classes) == (first.paths, first.classes)
    assert np.array_equal(again.labels, first.labels)
    write_tar(tmp_path / "s-1.tar", {"new.jpg": b"x" * 20000})
    assert names_of(open_source(str(tmp_path), cache=cache)) == ["0.jpg", "new.jpg"]
    write_tar(tmp_path / "s-2.tar", {"2.jpg": b"x"})
    assert len(open_source(str(tmp_path), cache=cache)) == 3
    assert len(open_source(str(tmp_path / "s-0.tar"), cache=cache)) == 1
    assert len(calls) == 4


def test_remote(tmp_path, monkeypatch):
    fs = fsspec.filesystem("memory")
    cache = tmp_path / "sources.json.gz"
    try:
        for n in range(2):
            fs.pipe(f"/bucket/s-{n}.tar", tar_of({f"{n}.jpg": b"%d" % n * 1000, f"{n}.cls": b"cat"}))
        source = open_source("memory://bucket/s-{0..1}.tar", need_labels=True, cache=cache)
        assert [read_bytes(path) for path in source.paths] == [b"0" * 1000, b"1" * 1000]
        assert describe(source.paths[0]) == "memory://bucket/s-0.tar: 0.jpg"
        with monkeypatch.context() as patched:
            patched.setattr(SHARDS, "list_images", None)  # the cache answers
            assert open_source("memory://bucket/s-{0..1}.tar", cache=cache).paths == source.paths
        fs.pipe("/bucket/s-1.tar", tar_of({"new.jpg": b"x" * 20000}))
        assert names_of(open_source("memory://bucket/s-{0..1}.tar", cache=cache)) == ["0.jpg", "new.jpg"]
        fs.pipe("/bucket/s-1.tar", tar_of({"new.jpg": b"x"})[:700])
        assert "memory://bucket/s-1.tar" in refusal("memory://bucket/s-{0..1}.tar")
        assert "s-2.tar" in refusal("memory://bucket/s-{0..2}.tar")
        assert "shards" in refusal("memory://bucket/list.csv")
        monkeypatch.setattr(type(fs), "info", lambda *_: 1 / 0)  # as good as anything that such libraries raise
        assert "division" in refusal("memory://bucket/s-0.tar")
    finally:
        fs.store.clear()
        fs.pseudo_dirs[:] = [""]


@pytest.fixture
def folder_and_shards(tmp_path) -> tuple[Source, Source]:
    """The same images in the same order, as files and in two shards."""
    folder = open_source(str(make_folder(tmp_path / "images", per_class=9)))
    files = [(path, Path(path).read_bytes()) for path in folder.paths]
    for n in range(2):
        part = files[9 * n : 9 * n + 9]
        members = {f"{i:03d}.png": data for i, (_, data) in enumerate(part)}
        labels = {f"{i:03d}.cls": path.split("/")[-2].encode() for i, (path, _) in enumerate(part)}
        write_tar(tmp_path / f"shards/{n}.tar", members | labels)
    shards = open_source(str(tmp_path / "shards"))
    assert labels_of(shards) == labels_of(folder)
    return folder, shards


def tiny(batch: int, **run) -> Config:
    cfg = Config()
    cfg.optim.batch_size = batch
    cfg.views.global_size, cfg.views.local_size, cfg.views.locals = 16, 8, 2
    cfg.model.patch_size = 4
    for name, value in run.items():
        setattr(cfg.run, name, value)
    return cfg


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_files(folder_and_shards, workers):
    folder, shards = folder_and_shards
    cfg = tiny(batch=6)
    steps = zip(batches(folder, cfg, 2, 7, 0), batches(shards, cfg, 2, 7, workers), strict=True)
    for (a,), (b,) in steps:
        assert not b.broken
        assert all(torch.equal(x, y) for x, y in zip(a, b) if isinstance(x, torch.Tensor))


def test_two_ranks_read_every_image_once(folder_and_shards):
    """Ranks take the micro-batches of a step in turn; together they see what one process sees."""
    _, shards = folder_and_shards
    cfg = tiny(batch=6, micro_batch=3)  # 18 images: an epoch is three steps of two micro-batches
    halves = []
    for rank in range(2):
        dataset = MicroBatches(shards, cfg)  # a process has its own
        halves.append([int(i) for step in range(3) for i in dataset[2 * step + rank].indices])
    assert not set(halves[0]) & set(halves[1])
    assert sorted(halves[0] + halves[1]) == list(range(18))
    assert {Path(shards.paths[i].split("\0")[1]).name for i in halves[0]} == {"0.tar", "1.tar"}
