"""Whole runs in several processes: any number may go on with what another number saved; a process that dies is no hang."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dinolab
from dinolab.recipes import load_config
from dinolab.training import checkpoint
from tests.pictures import TINY, fit_words, make_folder
from tests.processes import launch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures"))


def words(pictures: Path, run: Path, *more: str) -> list[str]:
    # draws of stochastic depth are each process's own
    return fit_words([*TINY, "model.drop_path=0", "run.log_every=1", f"data.path={pictures}", f"run.dir={run}", *more])


def start(world: int, pictures: Path, run: Path, *more: str) -> list[subprocess.Popen]:
    command = ["-m", "dinolab", "train", *words(pictures, run, *more)]
    return launch(world, command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def losses(run: Path) -> dict[int, float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def wait_for(processes: list[subprocess.Popen], ready, timeout: float = 120) -> None:
    end = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < end and all(p.poll() is None for p in processes), [p.stderr.read() for p in processes]
        time.sleep(0.01)


def newest(run: Path) -> int:
    found = checkpoint.checkpoints(run / "checkpoints")
    return checkpoint.step_of(found[-1]) if found else 0


def test_stopped_and_resumed_by_other_numbers_of_processes(pictures: Path, tmp_path: Path) -> None:
    more = ["optim.length=40 steps", "highres.length=6 steps"]
    whole = dinolab.train(load_config(None, words(pictures, tmp_path / "whole", *more)))
    parts = tmp_path / "parts"
    for world, until in ((2, 4), (4, 12), (1, 46)):
        processes = start(world, pictures, parts, *more)
        if until < 46:
            wait_for(processes, lambda until=until: newest(parts) >= until)
            for p in processes:
                p.send_signal(signal.SIGTERM)
        ends = [p.wait(timeout=120) for p in processes]
        said = [p.stderr.read() for p in processes]
        assert ends == [143 if until < 46 else 0] * world, said
        assert sum("saved. The same command continues" in text for text in said) == (until < 46)
    assert "2 processes" in (parts / "log.txt").read_text() and "4 processes" in (parts / "log.txt").read_text()
    assert losses(parts).keys() == losses(whole).keys() == set(range(1, 47))
    assert losses(parts) == pytest.approx(losses(whole), rel=2e-3)
    end = load_file(whole / "model.safetensors")
    made = load_file(parts / "model.safetensors")
    assert end["pos_embed"].shape[1] == 1 + 8 * 8  # of the larger crops
    for name in ("patch_embed.proj.weight", "pos_embed", "blocks.1.mlp.fc2.weight"):
        torch.testing.assert_close(made[name], end[name], atol=2e-3, rtol=2e-2)


def test_a_killed_process_ends_the_others_and_the_run_goes_on(pictures: Path, tmp_path: Path) -> None:
    run, more = tmp_path / "run", ["optim.length=300 steps", "run.save_every=2 steps", "eval.every=0 steps"]
    more.append("run.micro_batch=auto")  # all ranks must find the same, and keep it
    processes = start(2, pictures, run, *more)
    wait_for(processes, lambda: newest(run) >= 10)
    processes[1].kill()  # most likely while a checkpoint is written
    error = processes[0].communicate(timeout=60)[1]
    assert processes[0].returncode == 2, error
    assert "rank 0 stops: another process is gone" in error and "Traceback" not in error

    found = checkpoint.checkpoints(run / "checkpoints")
    assert found
    processes = start(2, pictures, run, *more)
    wait_for(processes, lambda: newest(run) > checkpoint.step_of(found[-1]))
    for p in processes:
        p.send_signal(signal.SIGTERM)
    assert [p.wait(timeout=60) for p in processes] == [143, 143]
    log = (run / "log.txt").read_text()
    assert f"resumed from {found[-1]}" in log and log.count("run.micro_batch=auto:") == 2
    assert (
        f"run.micro_batch=auto: {load_config(run / 'config.yaml').run.micro_batch} images"
        in log.split("as the run began")[0]
    )


def test_mistakes_are_told_once(pictures: Path, tmp_path: Path) -> None:
    processes = start(3, pictures, tmp_path / "run")
    assert processes[0].wait(timeout=60) == 2
    for p in processes[1:]:
        p.wait(timeout=60)
    said = [p.stderr.read() for p in processes]
    assert "optim.batch_size=8 cannot be shared out equally over 3 processes" in said[0]
    assert all("shared out" not in text and "Traceback" not in text for text in said[1:])


def test_a_signal_to_torchrun_saves_also_with_processes_that_load(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ["optim.length=2000 steps", "run.save_every=1000 steps", "eval.every=0 steps", "run.workers=1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command = [*torchrun, "--standalone", "-m", "dinolab", "train", *words(pictures, run, *more)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    wait_for([process], lambda: (run / "metrics.jsonl").exists() and len(losses(run)) > 3)
    process.terminate()  # torchrun signals whole sessions, with all processes that load
    _, said = process.communicate(timeout=90)
    assert "stopped by SIGTERM; saved" in said, said
    assert newest(run) > 3
