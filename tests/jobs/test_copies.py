"""Zips that are damaged, or made to fill the disk: one line each, and nothing left behind."""

import shutil
import zipfile
from collections import namedtuple

import pytest

from dinolab.errors import UserError
from dinolab.jobs.copies import find_layout

Usage = namedtuple("Usage", "total used free")


def zipped(path, method: int):
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr("Training_set.csv", "filename,label\n" + "1.jpg,cat\n" * 1000)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_damaged_members(tmp_path, method):
    path = zipped(tmp_path / "it.zip", method)
    data = bytearray(path.read_bytes())
    data[60:75] = bytes(15)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"it\.zip"):
        find_layout(str(path), tmp_path / "out" / "images")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_zip_that_would_fill_the_disk(tmp_path, monkeypatch):
    path, out = zipped(tmp_path / "it.zip", zipfile.ZIP_DEFLATED), tmp_path / "out" / "images"
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: Usage(20_000, 11_000, 9_000))
        with pytest.raises(UserError, match="are free"):
            find_layout(str(path), out)
    assert list((tmp_path / "out").iterdir()) == []
    assert find_layout(str(path), out) == out  # the next try succeeds
