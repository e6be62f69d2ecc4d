"""Patterns as bash expands them; remote files by fsspec; copies that are whole or not there."""

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from dinolab.data.addresses import braces, find_files, local_copy, open_file, stamps
from dinolab.data.sources.kinds import forget
from dinolab.errors import UserError


@pytest.fixture
def bucket():
    """A folder of fsspec's memory file system, as an address."""
    fs = fsspec.filesystem("memory")
    yield fs, "memory://bucket"
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """Where simplecache:: keeps its files."""
    monkeypatch.setitem(fsspec.config.conf, "simplecache", {"cache_storage": str(tmp_path / "kept")})
    forget()
    return tmp_path / "kept"


@pytest.mark.parametrize(
    "pattern",
    ["a", "a-{0..3}.tar", "a-{000..012}.tar", "{8..11}", "{a,b}-{00..02}", "x{a,b}{c,d}y", "{a,}b", "{a}", "{1..b}"],
)
def test_braces_as_bash(pattern):
    words = subprocess.run(["bash", "-c", f"printf '%s\n' {pattern}"], capture_output=True, text=True, check=True)
    assert sorted(braces(pattern)) == sorted(words.stdout.split())


def test_local_files(tmp_path):
    for name in ("b.tar", "a.tar", ".hidden.tar", "c.TAR", "notes.txt", "[x].tar"):
        (tmp_path / name).touch()
    inside = [str(tmp_path / name) for name in ("[x].tar", "a.tar", "b.tar", "c.TAR")]
    assert find_files(str(tmp_path), ".tar") == inside
    assert find_files(str(tmp_path / "[x].tar"), ".tar") == inside[:1]  # a file before a pattern
    assert find_files(str(tmp_path / "*.tar"), ".tar") == inside[:3]
    assert find_files(str(tmp_path / "{b,a}.tar"), ".tar") == [inside[2], inside[1]]  # in the order given
    assert find_files(str(tmp_path / "{b,*}.tar"), ".tar") == [inside[2], *inside[:2]]  # each once
    missing = find_files(str(tmp_path / "{a,z}.tar"), ".tar")
    assert missing == [inside[1], str(tmp_path / "z.tar")]
    with pytest.raises(OSError, match=r"z\.tar"):
        stamps(missing)
    with pytest.raises(OSError, match=r"q\*\.tar"):
        stamps(find_files(str(tmp_path / "q*.tar"), ".tar"))


@pytest.mark.parametrize("chain", ["", "simplecache::"])
def test_remote_files(bucket, kept, chain):
    fs, address = bucket
    for n in (1, 0):
        fs.pipe(f"/bucket/t-{n}.tar", b"x" * (10 + n))
    for pattern in ("", "/", "/*.tar", "/t-{0..1}.tar"):
        files = find_files(chain + address + pattern, ".tar")
        assert len(files) == 2
        for n, file in enumerate(files):
            assert file.startswith(f"{chain}memory://")
            with open_file(file) as opened:
                assert opened.seekable()
                assert opened.read() == b"x" * (10 + n)
    before = stamps(files)
    fs.pipe("/bucket/t-1.tar", b"longer than it was")
    after = stamps(files)
    assert before[0] == after[0]
    assert before[1] != after[1]
    with pytest.raises(OSError, match="nothing"):
        stamps(find_files(f"{chain}{address}/nothing-*.tar", ".tar"))


def test_local_stamps(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    seen = {stamps([str(path)])[0]}
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    seen.add(stamps([str(path)])[0])
    changed = path.stat().st_mtime_ns
    path.write_bytes(b"three")
    os.utime(path, ns=(0, changed))
    seen.add(stamps([str(path)])[0])
    assert len(seen) == 3


def test_copies_are_whole_or_not_there(bucket, kept, monkeypatch):
    fs, address = bucket
    fs.pipe("/bucket/a.tar", b"whole")
    file = f"simplecache::{address}/a.tar"

    def die(path: str, to: str) -> None:
        Path(to).write_bytes(b"wh")
        raise ConnectionResetError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(fs, "get_file", die)
        with pytest.raises(ConnectionResetError):
            local_copy(file)
    assert list(kept.iterdir()) == []
    copy = Path(local_copy(file))
    assert copy.parent == kept
    assert copy.read_bytes() == b"whole"
    written = copy.stat().st_mtime_ns
    forget()
    assert local_copy(file) == str(copy)
    assert copy.stat().st_mtime_ns == written
    fs.pipe("/bucket/a.tar", b"another")
    assert local_copy(file) == str(copy)  # the storage is not looked at again
    forget()  # as whenever a source is opened
    assert Path(local_copy(file)).read_bytes() == b"another"


@pytest.mark.parametrize("chain", ["", "simplecache::"])
def test_a_missing_package_is_named(monkeypatch, chain):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match="s3fs") as caught:
        stamps([f"{chain}s3://bucket/a.tar"])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="nonsense"):
        find_files("nonsense://bucket/*.tar", ".tar")
