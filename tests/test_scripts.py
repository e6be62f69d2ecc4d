"""scripts/slurm.sh, with stand-ins for SLURM's own commands."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm.sh"
SRUN = """#!/usr/bin/env bash
trap 'echo saved > saved.txt; exit 143' TERM
echo $$ > srun.pid
echo "$@" > srun.txt
[ -e quick ] && exit 3
while :; do sleep 0.05; done
"""
SCANCEL = """#!/usr/bin/env bash
[ "$*" = "--signal=TERM 7" ] && kill -TERM "$(cat srun.pid)"
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then echo first; echo second; else echo "$@" > scontrol.txt; fi
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def submit(folder: Path, *words: str, **more: str) -> subprocess.Popen:
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "[a-b]", "SLURM_GPUS_ON_NODE": "4"}
    env = os.environ | slurm | more | {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.Popen(["bash", str(SCRIPT), *(words or ("small_1k", "data.path=my photos"))], cwd=folder, env=env)


def wait_for(path: Path) -> str:
    end = time.monotonic() + 20
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, path.name
        time.sleep(0.02)
    return path.read_text()


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_time_nearly_up(cluster: Path, signum: int) -> None:
    job = submit(cluster)
    command = wait_for(cluster / "srun.txt")
    assert "torchrun --nnodes 2 --nproc-per-node 4 " in command and "--rdzv-endpoint first:29500" in command
    assert command.endswith("-m dinolab train small_1k data.path=my photos\n")
    job.send_signal(signum)
    assert job.wait(timeout=20) == 143
    assert (cluster / "saved.txt").exists()
    if signum == signal.SIGUSR1:
        assert (cluster / "scontrol.txt").read_text() == "requeue 7\n"
    else:  # SLURM itself requeues a preempted job
        assert not (cluster / "scontrol.txt").exists()


def test_a_failure_is_not_tried_again(cluster: Path) -> None:
    (cluster / "quick").touch()
    assert submit(cluster).wait(timeout=20) == 3
    assert not (cluster / "scontrol.txt").exists()


def test_an_array_does_the_runs_of_a_grid(cluster: Path) -> None:
    (cluster / "quick").touch()
    submit(cluster, SLURM_ARRAY_TASK_ID="4").wait(timeout=20)
    assert (cluster / "srun.txt").read_text().endswith("python -m dinolab grid small_1k data.path=my photos task=4\n")


def test_curation_is_shared_by_an_array_or_by_nodes(cluster: Path) -> None:
    (cluster / "quick").touch()
    submit(cluster, "curate", "dedup", "my set", SLURM_ARRAY_TASK_ID="4").wait(timeout=20)
    assert (cluster / "srun.txt").read_text().endswith(" python -m dinolab curate dedup my set\n")
    submit(cluster, "curate", "dedup", "my set").wait(timeout=20)
    command = (cluster / "srun.txt").read_text()
    assert "torchrun --nnodes 2" in command and command.endswith("-m dinolab curate dedup my set\n")
