"""What puts a run together: the checksum of the images' names, and messages that name them."""

import zlib
from pathlib import Path

import pytest

from dinolab.recipes import load_config
from dinolab.data.types import Source
from dinolab.runs.folder import crc32
from dinolab.runs.run import Run
from dinolab.training.phases import Phase


def source(*paths: str) -> Source:
    return Source("images", list(paths), None, [])


@pytest.mark.parametrize(("paths", "names"), [
    (["/a/b/1.jpg", "/a/b/c/2.jpg"], ["/1.jpg", "/c/2.jpg"]),
    (["/a/b/1.jpg", "/a/bc/2.jpg"], ["/b/1.jpg", "/bc/2.jpg"]),
    (["/a/b/1.jpg"], ["/1.jpg"]),
    (["/a/x.tar\x00512+9\x00cat/1.jpg"], ["/x.tar\x00512+9\x00cat/1.jpg"]),
    (["/a/x.tar\x00512+9\x00cat/1.jpg", "/a/x.tar\x00512+9\x00cat/2.jpg"],
     ["/x.tar\x00512+9\x00cat/1.jpg", "/x.tar\x00512+9\x00cat/2.jpg"]),
    (["s3://bucket/d/x.tar\x00512+9\x00001.jpg", "s3://bucket/d/e/y.tar\x00512+9\x00001.jpg"],
     ["/x.tar\x00512+9\x00001.jpg", "/e/y.tar\x00512+9\x00001.jpg"]),
    (["/a/table\x000", "/a/table\x001"], ["/table\x000", "/table\x001"]),
    (["/a/\udcff.jpg"], ["/\udcff.jpg"]),
])  # fmt: skip
def test_checksum_is_of_names_below_their_common_folder(paths: list[str], names: list[str]) -> None:
    assert crc32(source(*paths)) == zlib.crc32("\n".join(names).encode(errors="surrogateescape"))


def test_checksum_survives_a_move_and_sees_another_order() -> None:
    before = source("/a/x.tar\x00512+9\x00cat/1.jpg", "/a/y.tar\x00512+9\x00cat/2.jpg")
    assert crc32(before) == crc32(source(*(path.replace("/a/", "/mnt/data/") for path in before.paths)))
    assert crc32(before) == crc32(source(*(path.replace("/a/", "s3://bucket/data/") for path in before.paths)))
    assert crc32(before) != crc32(source(*reversed(before.paths)))


def test_a_broken_image_in_a_shard_is_named_in_words(tmp_path: Path) -> None:
    said: list[str] = []
    run = object.__new__(Run)  # of all that a run has, what this asks for
    run.source = source("/a/x.tar\x00512+9\x00cat/1.jpg")
    run.log = type("Log", (), {"say": staticmethod(said.append)})()
    run.state = type(
        "State", (), {"broken": set(), "phase": Phase(load_config(None, ["data.max_broken=1"]), 64)}
    )()
    run.note_broken([(0, "not an image"), (0, "not an image")])
    assert said == ["broken image 1, replaced by another draw: /a/x.tar: cat/1.jpg: not an image"]
