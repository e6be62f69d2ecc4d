"""Speed and memory of a training step of each method, with equal crops, network and batch.

    python benchmarks/methods.py [key=value ...] [--recipe small_10k] [--rounds 5] [--out docs/results/methods.json]

Each method has a process of its own, so that its memory can be told apart. The processes take turns: in every round each makes one step
while the others wait, so that a machine that slows down does so for all. A step is that of `dinolab bench step`, on images of noise.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from dinolab.bench.common import memory_in_use, why_not
from dinolab.errors import UserError
from dinolab.files import write_whole
from dinolab.machine import environment
from dinolab.memory import peak_memory
from dinolab.methods import METHODS
from dinolab.parallel import choose_device
from dinolab.precision import autocast, choose_precision
from dinolab.recipes import load_config
from dinolab.runs.build import build_method
from dinolab.runs.noise import random_batch, values
from dinolab.timing import WARM_UP, synchronise
from dinolab.training.loop import train_step
from dinolab.training.optim import make_optimizer

EQUAL = ["views.locals=0"]  # two crops of each image, which every method takes


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("words", nargs="*", help="options of the training")
    args.add_argument("--recipe", default="small_10k")
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--out", type=Path, default=Path("docs/results/methods.json"))
    args.add_argument("--method", help=argparse.SUPPRESS)  # in a process of one method
    options = args.parse_args()
    if options.method:
        return answer(options.recipe, [*EQUAL, *options.words, f"method={options.method}"])
    command = [sys.executable, __file__, "--recipe", options.recipe, *options.words, "--method"]
    rows, base = measure(command, options.rounds), load_config(options.recipe, [*EQUAL, *options.words])
    facts = {"recipe": options.recipe, "words": [*EQUAL, *options.words], "batch": base.optim.batch_size}
    write_whole(options.out, (json.dumps(facts | {"rows": rows, **environment()}, indent=2) + "\n").encode())
    for row in rows:
        print("  ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))


def measure(command: list[str], rounds: int) -> list[dict]:
    """A row for each method; the first is the one that others are compared with."""
    processes = {
        name: subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in METHODS
    }  # fmt: skip
    first = {name: json.loads(process.stdout.readline() or "{}") for name, process in processes.items()}
    working = [name for name in METHODS if "peak" in first[name]]
    seconds: dict[str, list[float]] = {name: [] for name in working}
    for _ in range(rounds):
        for name in working:
            print("step", file=processes[name].stdin, flush=True)
            seconds[name].append(json.loads(processes[name].stdout.readline()))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    rows = []
    for name in METHODS:
        if name not in working:
            rows.append({"method": name, "note": first[name].get("why", "the process ended early")})
            continue
        ratios = [base / own for base, own in zip(seconds[working[0]], seconds[name], strict=True)]
        rows.append({
            "method": name,
            "images_per_s": first[name]["batch"] / statistics.median(seconds[name]),
            f"times_as_fast_as_{working[0]}": statistics.median(ratios),
            "peak_memory_mb": first[name]["peak"] / 1e6,
        })  # fmt: skip
    return rows


def answer(recipe: str, words: list[str]) -> None:
    """Make a step for each line that comes in, and print its seconds; before, a line with the peak of memory or why there is none."""
    try:
        cfg = load_config(recipe, words)
        device = choose_device(cfg.run.device)
        before = memory_in_use(device)
        views, method, s = random_batch(cfg, device), build_method(cfg, device).train(), values(cfg)
        optimizer = make_optimizer(method.student, cfg.optim)
        precision = autocast(device, choose_precision(cfg.run.precision, device))

        def step() -> None:
            train_step(method, optimizer, views, s, cfg.optim, precision)
            synchronise(device)

        for _ in range(WARM_UP[device.type]):
            step()
        peak = peak_memory(step, device) - before if before is not None else float("nan")
        print(json.dumps({"peak": peak, "batch": cfg.optim.batch_size}), flush=True)
    except (UserError, RuntimeError) as error:
        print(json.dumps({"why": why_not(error)}), flush=True)
        return
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        print(json.dumps(time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main()
