"""Run on a machine with a GPU everything that waits for one, in pieces of at most 9 minutes: tests, benchmarks, a short training.

    make gpu-check                          every piece that has no result of this GPU yet
    make gpu-check PIECE=attention          one piece, anew; `har` (with DATA=archive.zip) continues where it stopped
    make gpu-check DEVICE=cpu               tries the commands with tiny settings, without a GPU; results go to runs/gpu-check

Each piece writes docs/results/gpu_DEVICE_PIECE.json: its commands, how they ended, their figures, and the versions of the software.
A piece that takes longer than its time is stopped, and its result says so.
"""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from dinolab.errors import UserError
from dinolab.files import write_whole
from dinolab.machine import environment
from dinolab.parallel import choose_device

ROOT = Path(__file__).parents[1]
LIMIT = 9 * 60  # seconds of a piece
GRACE = 60  # seconds to save after SIGTERM
PHOTOS, HEIGHT, WIDTH = 512, 375, 500  # made where no DATA is given
TAIL = 12_000  # characters of a command's output that are kept
PYTHON, DINOLAB = [sys.executable], [sys.executable, "-m", "dinolab"]
TESTS = [
    "tests/models/test_attention.py",
    "tests/training/test_step.py",
    "tests/data/test_device_views.py",
    "tests/test_parallel.py",
]
TINY_MODEL = ["model.dim=16", "model.depth=1", "model.heads=2", "optim.batch_size=4", "run.compile=false"]
LATER = ["har"]  # only when they are named: they take hours


def commands(piece: str, tiny: bool, device: str, out: Path, data: str) -> list[list[str]]:
    """The command lines of a piece, which write their figures as JSON into the folder `out`."""
    bench = [*DINOLAB, "bench"]
    seconds = "seconds=0" if tiny else "seconds=2"
    recipe = ["demo", *TINY_MODEL] if tiny else ["dinov2_vits16"]
    large = ["demo", *TINY_MODEL] if tiny else ["dinov2_vits16", "model.size=large", "optim.batch_size=32"]
    small = ["models=tiny/16", "batch=1"] if tiny else []
    run = [f"data.path={data}", f"run.dir={out / 'run'}", f"run.device={device}", "run.pictures=false"]
    short = [f"optim.length={2 if tiny else 20} steps", "optim.warmup=1 steps", "eval.every=0 steps"]
    steps = ["--steps", "4" if tiny else "100"]
    end = ["--out", str(out / "end_to_end.json")]
    batch = [] if tiny else ["optim.batch_size=64"]  # the methods share the memory
    words_of_methods = [
        *recipe[1:],
        *batch,
        f"run.device={device}",
        "--recipe",
        recipe[0],
        "--rounds",
        "2" if tiny else "10",
    ]
    time_of = ["--seconds", "0" if tiny else "20"]
    script = {
        name: [*PYTHON, f"benchmarks/{name}.py"] for name in ("end_to_end", "sharding", "methods", "curation_scale")
    }
    pieces = {
        "tests": [[*PYTHON, "-m", "pytest", "-m", "not slow", *TESTS, *(["--collect-only", "-q"] if tiny else ["-ra"])]],
        "attention": [[*bench, "attention", *small, *(["sizes=32"] * tiny), seconds, f"device={device}", f"out={out}"]],
        "throughput": [[*bench, "throughput", *small, *(["size=32"] * tiny), seconds, f"device={device}", f"out={out}"]],
        "step": [[*bench, "step", *recipe, f"run.device={device}", seconds, f"out={out}"]],
        "step_large": [[*bench, "step", *large, f"run.device={device}", seconds, f"out={out}"]],
        "end_to_end": [
            [*script["end_to_end"], *run[:1], f"run.device={device}", *recipe[1:], "--models", recipe[0], *steps, *end]
        ],
        "sharding": [
            [*script["sharding"], *words, "--device", device, *time_of, "--out", str(out / f"{name}.json")]
            for name, words in (("sharding", recipe), ("sharding_large", large))
        ],
        "plan": [[*DINOLAB, "plan", *recipe, *run, f"steps={2 if tiny else 20}", f"json={out / 'plan.json'}"]],
        "micro_batch": [[*DINOLAB, "train", *large, *run, *short, "run.micro_batch=auto"]],
        "methods": [[*script["methods"], *words_of_methods, "--out", str(out / "methods.json")]],
        "curation": [
            [*script["curation_scale"], "--device", device, "--folder", str(out / "scratch"), "--images", str(n),
             "--stages", "make", "graph", "components", "--out", str(out / "curation_scale.json")]
            for n in ([2000] if tiny else [1_000_000])
        ],
        "har": [[*DINOLAB, "job", "har", f"data={data}", "out=runs/har", f"scale={'smoke' if tiny else 'full'}"]],
    }  # fmt: skip
    return pieces[piece]


PIECES = [
    "tests", "attention", "throughput", "step", "step_large", "end_to_end", "sharding", "plan", "micro_batch", "methods", "curation",
    *LATER,
]  # fmt: skip


def make_photos(folder: Path, number: int) -> None:
    """Write JPEGs of blurred noise, for pieces that need images and were given none."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for n in range(number):
        blocks = rng.integers(0, 256, (HEIGHT // 25, WIDTH // 25, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{n}.jpg"), cv2.resize(blocks, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))


def carry_out(command: list[str], until: float, log: Path) -> tuple[int, bool]:
    """Run a command until a moment of time.monotonic(); returns its exit status and whether it had to be stopped."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=os.environ | PATHS, start_new_session=True
        )
        try:
            return process.wait(timeout=max(1.0, until - time.monotonic())), False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait(), True


PATHS = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(":")}


def check(piece: str, tiny: bool, device: str, name: str, data: str, limit: float) -> dict[str, Any]:
    """Run the commands of a piece, and return its result."""
    began, rows = time.monotonic(), []
    with TemporaryDirectory(prefix="gpu-check-") as place:
        out = Path(place) / "out"
        out.mkdir()
        if not data:
            make_photos(Path(place) / "photos", 8 if tiny else PHOTOS)
        for command in commands(piece, tiny, device, out, data or str(Path(place) / "photos")):
            log = Path(place) / "log.txt"
            status, stopped = carry_out(command, began + limit, log)
            said = log.read_text(errors="replace")[-TAIL:]
            line = shlex.join(["python", *command[1:]]).replace(place, "TMP")
            rows.append({"command": line, "status": status, "stopped": stopped, "output": said.replace(place, "TMP")})
            if status or stopped:
                break
        figures = {file.stem: json.loads(file.read_text()) for file in sorted(out.glob("*.json"))}
    return {
        "piece": piece,
        "device": name,
        "done": not any(row["status"] or row["stopped"] for row in rows),
        "seconds": time.monotonic() - began,
        "images": "given" if data else f"{8 if tiny else PHOTOS} made, {WIDTH} x {HEIGHT}",
        "commands": rows,
        "figures": figures,
        "environment": environment(),
    }


def is_done(file: Path) -> bool:
    return file.exists() and json.loads(file.read_text())["done"]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"some of {', '.join(PIECES)}")
    parser.add_argument("--device", default="auto", help="cpu tries the commands with tiny settings")
    parser.add_argument("--data", default="", help="images for end_to_end, plan and micro_batch; the archive for har")
    parser.add_argument("--minutes", type=float, default=LIMIT / 60, help="of a piece, at most")
    parser.add_argument("--out", type=Path, help="folder of the results (docs/results; runs/gpu-check for the CPU)")
    args = parser.parse_args(words)
    if unknown := [piece for piece in args.pieces if piece not in PIECES]:
        raise UserError(f"PIECE={unknown[0]}: one of {', '.join(PIECES)}")
    if "har" in args.pieces and not args.data:
        raise UserError("PIECE=har needs DATA=archive.zip, the data set that docs/results/har.md names")
    device = choose_device(args.device, "DEVICE=")
    if device.type == "cpu" and args.device != "cpu":
        raise UserError("there is no GPU here; DEVICE=cpu tries the commands with tiny settings")
    name = environment()["gpu"] or device.type
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    out = args.out or (ROOT / "runs" / "gpu-check" if device.type == "cpu" else ROOT / "docs" / "results")
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for piece in args.pieces or [piece for piece in PIECES if piece not in LATER]:
        file = out / f"gpu_{slug}_{piece}.json"
        if not args.pieces and is_done(file):
            print(f"{piece}: done before, {file}")
            continue
        result = check(piece, device.type == "cpu", str(device), name, args.data, 60 * args.minutes)
        write_whole(file, (json.dumps(result, indent=2) + "\n").encode())
        last = result["commands"][-1]
        how = "done" if result["done"] else "stopped after its time" if last["stopped"] else f"status {last['status']}"
        print(f"{piece}: {how}, {result['seconds']:.0f} s, {file}", flush=True)
        if not result["done"]:
            failed += 1
            print(last["output"][-2000:], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except UserError as error:
        raise SystemExit(str(error)) from error
