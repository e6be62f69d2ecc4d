"""Parts that several processes share: the same files whatever their number, and whenever they are killed."""

import os
import signal
import traceback
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinolab.curation import embed, graph, hierarchy, lists, parts
from dinolab.errors import UserError
from tests.curation.conftest import curate, picture
from tests.curation.test_curate import contents


@pytest.fixture
def small_parts(monkeypatch):
    """Sizes by which the small heap has several parts in each step."""
    for module, name, value in [
        (embed, "IMAGES", 8), (graph, "EXACT", 8), (lists, "SORTED", 8), (lists, "SEARCHED", 8), (hierarchy, "ASSIGNED", 8),
        (parts, "POLL", 0.01),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name, value)


def start(commands, rank=0, world=1, writes=0):
    """Do commands in another process, as a task of a SLURM array; it is killed instead of its last of so many writes, if not 0."""
    if process := os.fork():
        return process
    status = 1
    try:
        torch.set_num_threads(1)
        if writes:
            parts.PATIENCE = parts.JOINED = 0.5  # the other one may be gone
        if world > 1:
            names = {"ID": rank + 1, "MIN": 1, "COUNT": world}
            os.environ.update({f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()})
        left, usual = [writes], Path.replace

        def replace(self, target):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return usual(self, target)

        Path.replace = replace
        status = max(curate(*words) for words in commands)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(*processes):
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def test_the_files_are_those_of_one_process(heap, tmp_path, small_parts):
    for name, seeds in (("test", (2, 99)), ("curated", (7, 8, 11, 12))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            cv2.imwrite(str(tmp_path / name / f"{seed}.png"), picture(seed, side=60))

    def commands(out):
        yield "embed", out, f"data={heap}"
        yield "dedup", out, f"against={tmp_path / 'test'}", "neighbours=5"
        yield "retrieve", out, f"curated={tmp_path / 'curated'}", "index=faiss"
        yield "sample", out, "size=5", "levels=2", "clusters=[3,2]", "learned=8", "resamplings=1"

    one, two, killed = (tmp_path / name for name in ("one", "two", "killed"))
    assert wait(start(commands(one))) == [0]
    assert wait(*(start(commands(two), rank, 2) for rank in range(2))) == [0, 0]
    kills, writes = 0, 1
    while wait(start(commands(killed), writes=writes)) == [-signal.SIGKILL]:
        kills, writes = kills + 1, writes + 9
        if kills % 2:  # the number of processes changes, and both are killed
            wait(*(start(commands(killed), rank, 2, writes=3) for rank in range(2)))
    assert kills > 3
    expected = contents(one)
    assert len([name for name in expected if "/graph/" in name]) >= 6
    for folder in (two, killed):
        found = {name: data for name, data in contents(folder).items() if not name.endswith(".tmp")}
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []


def test_parts_are_made_once_and_late_ones_by_others(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(parts, "PATIENCE", 0)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_STEP", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    assert parts.crew() == (1, 3)
    made = []

    def make(number):
        made.append(number)
        return {"a": np.full((2, number), number, np.float16), "b": np.arange(number, dtype=np.int32)}

    found = parts.Parts(tmp_path).each("step", 5, make)
    assert sorted(made) == [0, 1, 2, 3, 4]
    assert made[:2] == [1, 4]  # its own come first
    assert "is late; this process makes it, too" in caplog.text
    for number, part in enumerate(found):
        for name, array in make(number).items():
            np.testing.assert_array_equal(part[name], array)
            assert part[name].dtype == array.dtype
    made.clear()
    parts.Parts(tmp_path).each("step", 5, make)
    assert made == []
    file = tmp_path / "step" / "000003.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"000003.safetensors: damaged \(cut short\); remove it"):
        parts.Parts(tmp_path).each("step", 5, make)[3]["a"]
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "many")
    with pytest.raises(UserError, match="SLURM_ARRAY_TASK_COUNT=many"):
        parts.crew()
