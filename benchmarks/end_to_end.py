"""Measure whole trainings on JPEGs: images per second, share of the time spent waiting for data, memory, use of the device.

    python benchmarks/end_to_end.py data.path=DIR [--models dinov2_vits16 dinov2_vits8] [--steps 200] [--out FILE.json] [key=value ...]

Each row is a run of `dinolab train` with the recipe and one thing changed: FlashAttention off (run.attention=math), compiled blocks,
or crops made on the device. The first half of the steps warms up; figures are medians over the log lines of the second half.

"Use" is the model's floating-point operations per second, counted without stochastic depth, divided by those of a large matrix
product in the same precision, measured just before. `dinolab bench step` measures what needs no data, such as stochastic depth.
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import dinolab
from dinolab.bench.common import matmul, measure
from dinolab.bench.step import flops_per_image
from dinolab.errors import UserError
from dinolab.machine import environment
from dinolab.parallel import choose_device
from dinolab.precision import choose_precision
from dinolab.recipes import load_config
from dinolab.rundir import RunFolder

CHANGES: dict[str, list[str]] = {
    "as configured, crops on the CPU": ["run.device_views=never"],
    "FlashAttention off": ["run.device_views=never", "run.attention=math"],
    "compiled": ["run.device_views=never", "run.compile=true"],
    "crops on the device": ["run.device_views=always"],
    "compiled, crops on the device": ["run.compile=true", "run.device_views=always"],
}


def run(recipe: str, words: list[str], steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        every = max(1, steps // 20)
        length = [f"optim.length={steps} steps", f"run.log_every={every}", "run.save_every=100%"]
        fixed = [f"run.dir={folder}/run", *length]
        cfg = load_config(recipe, [*words, *fixed, "eval.every=0 steps", "run.pictures=false"])
        device = choose_device(cfg.run.device)
        dtype = choose_precision(cfg.run.precision, device) or torch.float32
        product, operations = matmul(device, dtype)
        per_second = operations / measure({"matmul": product}, device, 1.0)["matmul"].median
        del product  # its matrices would count as memory of the run
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        run_folder = RunFolder(dinolab.train(cfg))
        peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
        lines, _ = run_folder.read_metrics()
        lines = [line for line in lines if steps / 2 < line["step"] < steps]  # the last step also saves
        images_per_s = statistics.median(line["images_per_s"] for line in lines)
        return {
            "batch": cfg.optim.batch_size,
            "images_per_s": images_per_s,
            "data_wait": statistics.median(line["data_wait"] for line in lines),
            "use_of_measured_matmul": images_per_s * flops_per_image(cfg, device) / per_second,
            "matmul_tflops": per_second / 1e12,
            "peak_memory_gb": peak,
        }


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("options", nargs="+", metavar="key=value")
    args.add_argument("--models", nargs="+", default=["dinov2_vits16", "dinov2_vits8"], metavar="RECIPE")
    args.add_argument(
        "--changes",
        nargs="+",
        default=list(CHANGES),
        choices=CHANGES,
        metavar="NAME",
        help=f"some of: {'; '.join(CHANGES)}",
    )
    args.add_argument("--steps", type=int, default=200)
    args.add_argument("--out", type=Path, default=Path("docs/results/end_to_end.json"))
    options = args.parse_intermixed_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for recipe in options.models:
        for name in options.changes:
            words = CHANGES[name]
            try:
                figures = run(recipe, [*options.options, *words], options.steps)
            except UserError as error:  # most likely out of memory; the other rows can still be measured
                figures = {"failed": str(error)}
            rows.append({"recipe": recipe, "change": name, "options": words, **figures})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)

    table = Table("recipe", "change", "images/s", "waits for data", "use", "GB")
    for row in rows:
        if "failed" in row:
            table.add_row(row["recipe"], row["change"], row["failed"])
            continue
        memory = f"{row['peak_memory_gb']:.1f}" if row["peak_memory_gb"] else ""
        figures = (
            f"{row['images_per_s']:.4g}",
            f"{row['data_wait']:.1%}",
            f"{row['use_of_measured_matmul']:.1%}",
            memory,
        )
        table.add_row(row["recipe"], row["change"], *figures)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    command = " ".join(["python benchmarks/end_to_end.py", *(w for w in sys.argv[1:] if not w.startswith("data.path"))])
    options.out.write_text(
        json.dumps({"command": command, "environment": environment(), "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from error
