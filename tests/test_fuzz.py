"""The fuzzer: it runs, everything it damages in a few tries is read or refused, and no way to fail escapes it."""

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinolab.errors import UserError

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limits are those of Linux")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_a_few_tries_of_every_kind(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "fuzz.py", "--tries", "1", "--seed", "1", "--keep", tmp_path / "faults"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "no failures" in done.stdout, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def refuse() -> None:
    raise UserError("this file is damaged")


def fill() -> None:
    pages = mmap.mmap(-1, 64 << 20)  # from the system: an allocation could be served from what this process has kept
    pages[:: mmap.PAGESIZE] = b"x" * (len(pages) // mmap.PAGESIZE)


FAULTS = {
    b"pass": (lambda: None, None),
    b"refuse": (refuse, None),
    b"raise": (lambda: 1 // 0, "ZeroDivisionError"),
    b"exit": (sys.exit, "SystemExit"),
    b"crash": (os.abort, "crash SIGABRT"),
    b"hang": (lambda: time.sleep(60), "time"),
    b"fill": (fill, "memory"),
}


def test_every_way_to_fail_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from fuzzing import trial
    from fuzzing.kind import Kind
    from fuzzing.mutate import raw

    monkeypatch.setattr(trial, "SECONDS", 2.0)
    monkeypatch.setattr(trial, "MEMORY", 32 << 20)
    kind = Kind(
        lambda folder: (folder / "a").touch(),
        {"a": raw},
        lambda folder, name: FAULTS[(folder / name).read_bytes()][0](),
    )
    trial.make_template(kind, tmp_path / "files")
    reader = trial.Reader(kind, tmp_path / "files")
    for content, (_, sort) in FAULTS.items():
        fault = reader.read("a", content)
        assert (fault and fault.sort) == sort
    reader.stop()
