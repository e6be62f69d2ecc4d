"""What a source knows of its images: their names, and hashes that files on disk hold."""

import zlib

import numpy as np
import pytest

from dinolab.data.types import Source


def source(*paths: str) -> Source:
    return Source("images", list(paths), None, [])


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/d/test/1.jpg"], ["1.jpg"]),
        (["/d/test/1.jpg", "/d/test/2.jpg"], ["1.jpg", "2.jpg"]),
        (["/d/test/cat/1.jpg", "/d/test/dog/1.jpg"], ["cat/1.jpg", "dog/1.jpg"]),
        (
            ["shards\x00/d/a.tar\x00512+10\x00cat/1.jpg", "shards\x00/d/b.tar\x00512+10\x00cat/1.jpg"],
            ["a.tar/cat/1.jpg", "b.tar/cat/1.jpg"],
        ),
        (
            ["shards\x00s3://b/x/a.tar\x000+1\x001.jpg", "shards\x00s3://b/y/a.tar\x000+1\x001.jpg"],
            ["x/a.tar/1.jpg", "y/a.tar/1.jpg"],
        ),
        (["dataset\x00/d/t.parquet\x000", "dataset\x00/d/t.parquet\x001"], ["t.parquet/0", "t.parquet/1"]),
    ],
)
def test_names(paths, expected):
    assert source(*paths).names() == expected


def test_files_are_named_once():
    paths = ["shards\x00/d/b.tar\x000+1\x001.jpg", "/d/1.jpg", "shards\x00/d/b.tar\x001+1\x002.jpg"]
    assert source(*paths).files() == ["/d/b.tar", "/d/1.jpg"]


@pytest.mark.parametrize(("paths", "names"), [
    (["/a/b/1.jpg", "/a/b/c/2.jpg"], ["/1.jpg", "/c/2.jpg"]),
    (["/a/b/1.jpg", "/a/bc/2.jpg"], ["/b/1.jpg", "/bc/2.jpg"]),
    (["/a/b/1.jpg"], ["/1.jpg"]),
    (["shards\x00/a/x.tar\x00512+9\x00cat/1.jpg"], ["/x.tar\x00512+9\x00cat/1.jpg"]),
    (["shards\x00/a/x.tar\x00512+9\x00cat/1.jpg", "shards\x00/a/x.tar\x00512+9\x00cat/2.jpg"],
     ["/x.tar\x00512+9\x00cat/1.jpg", "/x.tar\x00512+9\x00cat/2.jpg"]),
    (["shards\x00s3://bucket/d/x.tar\x00512+9\x00001.jpg", "shards\x00s3://bucket/d/e/y.tar\x00512+9\x00001.jpg"],
     ["/x.tar\x00512+9\x00001.jpg", "/e/y.tar\x00512+9\x00001.jpg"]),
    (["dataset\x00/a/table\x000", "dataset\x00/a/table\x001"], ["/table\x000", "/table\x001"]),
    (["/a/\udcff.jpg"], ["/\udcff.jpg"]),
])  # fmt: skip
def test_checksum_is_of_names_below_their_common_folder(paths: list[str], names: list[str]) -> None:
    """The kind's name is left out: environment.json of runs on disk holds this number."""
    assert source(*paths).checksum() == zlib.crc32("\n".join(names).encode(errors="surrogateescape"))


def test_checksum_survives_a_move_and_sees_another_order() -> None:
    before = source("shards\x00/a/x.tar\x00512+9\x00cat/1.jpg", "shards\x00/a/y.tar\x00512+9\x00cat/2.jpg")
    for place in ("/mnt/data/", "s3://bucket/data/"):
        assert before.checksum() == source(*(path.replace("/a/", place) for path in before.paths)).checksum()
    assert before.checksum() != source(*reversed(before.paths)).checksum()


@pytest.mark.parametrize(("paths", "labels", "classes", "digest"), [
    (["/d/a/2.jpg", "/d/b/1.jpg", "/d/b/ü\udcff.jpg"], [1, 0, 0], ["cat", "dög"], "85a806338e5ef981abc37aef8f33dc2f"),
    (["/elsewhere/b/1.jpg", "/elsewhere/b/ü\udcff.jpg", "/elsewhere/a/2.jpg"], [0, 0, 1], ["cat", "dög"],
     "85a806338e5ef981abc37aef8f33dc2f"),
    (["shards\x00/d/a.tar\x00512+10\x00cat/1.jpg", "shards\x00/d/b.tar\x00512+10\x00cat/1.jpg"], [0, 1], ["a", "b"],
     "2bb264b6f5e865c3a00090f095c5cb9b"),
])  # fmt: skip
def test_fingerprint_is_the_one_that_splits_on_disk_hold(paths, labels, classes, digest):
    assert Source("images", paths, np.array(labels), classes).fingerprint() == digest
    assert Source("images", paths, np.array(labels), classes[::-1]).fingerprint() != digest
