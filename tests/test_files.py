import errno
import subprocess
import sys

import pytest
from safetensors import SafetensorError

import dinolab
from dinolab.errors import reason
from dinolab.evals.results import write_csv
from dinolab.files import beside, file_name, lock, naming, write_whole
from tests.pictures import make_folder


def write_half(file):
    with beside(file) as place:
        place.write_bytes(b"half")
        raise KeyboardInterrupt


def test_what_is_interrupted_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "figures.json"
    write_whole(file, b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(file)
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]
    write_whole(file, b"new")
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]


def test_half_a_table_is_never_there(tmp_path):
    def rows():
        yield "a.jpg", "cat"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_csv(tmp_path / "predictions.csv", ["filename", "label"], rows())
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_with_its_result_is_complete(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    train, test = (str(make_folder(tmp_path / name, per_class=4)) for name in ("train", "test"))
    monkeypatch.setattr("dinolab.evals.results.draw_confusion", killed)
    with pytest.raises(KeyboardInterrupt):
        dinolab.evaluate("knn", "pixels", train, test, tmp_path / "out", cache="none")
    assert not (tmp_path / "out" / "result.json").exists()
    monkeypatch.undo()
    dinolab.evaluate("knn", "pixels", train, test, tmp_path / "out", cache="none")
    whole = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("dinolab.evals.results.draw_confusion", killed)
    with pytest.raises(KeyboardInterrupt):
        dinolab.evaluate("knn", "pixels", test, train, tmp_path / "out", cache="none")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == whole
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"result.json", "predictions.csv", "confusion.png"}


def test_a_full_disk_is_named(tmp_path):
    file = tmp_path / "figures.json"
    for error in (  # of a file's write, of numpy.save, of safetensors, of torch.save
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("256000 requested and 225216 written"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 832 vs 726"),
    ):
        with pytest.raises(OSError, match="No space left on device") as raised, naming(file):
            raise error
        assert reason(raised.value).startswith(f"the disk of {tmp_path} is full; free some space there")


def test_file_names():
    assert file_name("hf:facebook/dinov2 große.v2-b_1") == "hf_facebook_dinov2_große.v2-b_1"


def test_a_locked_file_keeps_its_content_and_other_processes_out(tmp_path):
    file = tmp_path / "lock"
    file.write_text("kept")
    code = f"from dinolab.files import lock; from pathlib import Path; lock(Path({str(file)!r})); print('locked')"

    def try_it() -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    with lock(file):
        assert "BlockingIOError" in try_it().stderr
    assert try_it().stdout == "locked\n"
    assert file.read_text() == "kept"
