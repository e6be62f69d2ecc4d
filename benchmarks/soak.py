"""Kill a small run at random moments, again and again, and compare its final weights with those of an undisturbed run.

    python benchmarks/soak.py --out docs/results/soak.json
    python benchmarks/soak.py --processes 2 --kills 10

Each time the same command is started again, and one of its processes is killed (SIGKILL) at a random moment: while it starts, trains,
writes a checkpoint or evaluates. The final weights must be equal bit for bit, with one process and with several: sums over several
processes have a fixed order.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from dinolab.data.digits import make_scenes
from dinolab.machine import environment
from dinolab.rundir import RunFolder
from dinolab.training import checkpoint

WORDS = ["demo", "optim.length=800 steps", "optim.batch_size=16", "optim.warmup=50 steps", "run.save_every=10 steps"]
WORDS += ["run.workers=1", "run.pictures=false", "eval.every=100 steps", "eval.max_images=100"]


def start(processes: int, words: list[str]) -> subprocess.Popen:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "dinolab", "train", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def trainers(process: subprocess.Popen, processes: int) -> list[int]:
    """Return the processes that train: the one that was started, or torchrun's children."""
    if processes == 1:
        return [process.pid]
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def newest(run: Path) -> int:
    """Return the step of the newest checkpoint; 0 without one."""
    found = checkpoint.checkpoints(RunFolder(run).checkpoints)
    return checkpoint.step_of(found[-1]) if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak"))
    scenes = make_scenes(folder / "scenes")
    words = [*WORDS, f"data.path={scenes / 'train'}"]

    began = time.monotonic()
    whole = start(args.processes, [*words, f"run.dir={folder / 'whole'}"])
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    alone = time.monotonic() - began
    print(f"undisturbed: {alone:.0f} s", flush=True)

    chance, kills, starts, run = random.Random(args.seed), [], 0, folder / "killed"
    pace = alone / 160  # seconds between two checkpoints, at most
    while True:
        process, starts, since = start(args.processes, [*words, f"run.dir={run}"]), starts + 1, time.monotonic()
        before = newest(run)
        # Now and then the kill comes early, while the run starts; else soon after a new checkpoint, or the run would never end.
        early, deadline = chance.random() < 0.2, chance.uniform(0, 40 * pace)
        while len(kills) < args.kills and process.poll() is None and (early or newest(run) == before):
            if early and time.monotonic() - since > deadline:
                break
            time.sleep(0.02)
        killed = False
        if len(kills) < args.kills and process.poll() is None:
            time.sleep(chance.uniform(0, pace))
            victims = trainers(process, args.processes)
            if killed := bool(victims):
                subprocess.run(["kill", "-KILL", str(chance.choice(victims))], check=False)
        _, errors = process.communicate()
        if process.returncode == 0:
            break
        assert killed and (args.processes > 1 or process.returncode == -signal.SIGKILL), errors
        half = len(list(RunFolder(run).checkpoints.glob("*.tmp")))
        kills.append({"after_s": round(time.monotonic() - since, 2), "checkpoint": newest(run), "half_written": half})
        print(f"kill {len(kills)}: {kills[-1]}", flush=True)

    one, other = (load_file(RunFolder(place).weights) for place in (folder / "whole", run))
    equal = all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    result = {
        "kills": len(kills), "starts": starts, "processes": args.processes, "weights_equal": equal,
        "killed_with_a_half_written_checkpoint": sum(kill["half_written"] > 0 for kill in kills),
        "undisturbed_s": round(alone, 1), "command": " ".join(sys.argv), "environment": environment(), "each": kills,
    }  # fmt: skip
    print(json.dumps({k: v for k, v in result.items() if k not in ("each", "environment")}, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    shutil.rmtree(folder)
    sys.exit(not equal)


if __name__ == "__main__":
    main()
