"""Every kind of location read by itself: from threads, forked and spawned processes, and when things are gone."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from dinolab.data.sources import open_source
from dinolab.data.sources.shards import SHARDS_OPEN
from dinolab.data.storage import describe, read_bytes
from tests.data.tars import tar_of, write_tar

FILES = {f"{n:03d}.jpg": bytes([n]) * (100 + n) for n in range(40)}


def test_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"picture")
    assert read_bytes(str(tmp_path / "a.jpg")) == b"picture"
    assert describe("/some/where.jpg") == "/some/where.jpg"
    with pytest.raises(FileNotFoundError):
        read_bytes(str(tmp_path / "b.jpg"))


def test_members(tmp_path):
    shard = write_tar(tmp_path / "s.tar", {"a/b.c.jpg": b"one", "d.png": b"two" * 1000})
    source = open_source(shard)
    assert [read_bytes(path) for path in source.paths] == [b"one", b"two" * 1000]
    assert [describe(path) for path in source.paths] == [f"{shard}: a/b.c.jpg", f"{shard}: d.png"]


def test_rows_are_described():
    assert describe("dataset\0/data/folder\00017") == "/data/folder, row 17"


@pytest.fixture(params=["local", "remote", "kept"])
def paths(request, tmp_path, monkeypatch):
    """The images of two shards, wherever they are."""
    files = list(FILES.items())
    shards = {f"s-{n}.tar": dict(files[20 * n : 20 * n + 20]) for n in range(2)}
    if request.param == "local":
        for name, members in shards.items():
            write_tar(tmp_path / name, members)
        yield open_source(str(tmp_path)).paths
        return
    monkeypatch.setitem(fsspec.config.conf, "simplecache", {"cache_storage": str(tmp_path / "kept")})
    fs = fsspec.filesystem("memory")
    for name, members in shards.items():
        fs.pipe(f"/bucket/{name}", tar_of(members))
    yield open_source("simplecache::" * (request.param == "kept") + "memory://bucket/s-{0..1}.tar").paths
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def test_threads(paths):
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read_bytes, paths * 20)) == list(FILES.values()) * 20


def test_forked_processes(paths):
    read_bytes(paths[0])  # inherited open
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(read_bytes, paths * 20, chunksize=1) == list(FILES.values()) * 20


def test_spawned_processes(tmp_path):
    paths = open_source(write_tar(tmp_path / "s.tar", FILES)).paths
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(read_bytes, paths) == list(FILES.values())


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files, as Linux lists them")
def test_many_shards_are_not_all_kept_open(tmp_path):
    for n in range(2 * SHARDS_OPEN):
        write_tar(tmp_path / f"{n:03d}.tar", {"a.jpg": b"%d" % n})
    paths = open_source(str(tmp_path)).paths
    before = len(os.listdir("/proc/self/fd"))
    assert [read_bytes(path) for path in paths] == [b"%d" % n for n in range(len(paths))]
    assert len(os.listdir("/proc/self/fd")) - before <= SHARDS_OPEN


def test_a_shard_that_was_cut_or_lost(tmp_path):
    shard = write_tar(tmp_path / "s.tar", FILES)
    first, *_, last = open_source(shard).paths
    os.truncate(shard, 4000)
    assert read_bytes(first) == FILES["000.jpg"]
    with pytest.raises(OSError, match="ends before"):
        read_bytes(last)
    source = open_source(write_tar(tmp_path / "t.tar", FILES))
    os.remove(tmp_path / "t.tar")
    with pytest.raises(FileNotFoundError):
        read_bytes(source.paths[0])


def test_a_shard_that_was_replaced(tmp_path):
    shard = write_tar(tmp_path / "s.tar", {"a.jpg": b"old", "b.jpg": b"old, too"})
    assert [read_bytes(path) for path in open_source(shard).paths] == [b"old", b"old, too"]
    os.remove(shard)
    write_tar(Path(shard), {"c.jpg": b"new"})
    assert [read_bytes(path) for path in open_source(shard).paths] == [b"new"]
