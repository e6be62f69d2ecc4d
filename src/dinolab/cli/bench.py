"""dinolab bench attention, throughput, step and data."""

import argparse
from pathlib import Path
from typing import Any

from dinolab.cli.parse import at_least, seconds, split_config


def add(verbs: Any) -> None:
    bench = verbs.add_parser("bench", help="measure speed and memory on this machine")
    whats = bench.add_subparsers(title="benchmarks", required=True, metavar="WHAT")
    about = {
        "attention": "FlashAttention on and off, in whole ViTs by image size",
        "throughput": "inference by architecture and patch size",
        "step": "a whole training step, with one thing changed at a time",
        "data": "reading, decoding, multi-crop and the whole loader on your images",
    }
    attention, throughput, step, data = (whats.add_parser(name, help=h, description=h) for name, h in about.items())
    for what in (attention, throughput):
        what.add_argument("--models", nargs="+", metavar="SIZE/PATCH", help="for example small/16")
        what.add_argument("--batch", type=at_least(1), help="images at once (default: by device)")
        what.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
        what.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="default auto")
    attention.add_argument("--sizes", type=at_least(1), nargs="+", help="of images in pixels (default 224 to 518)")
    attention.add_argument("--backends", nargs="+", metavar="NAME", help="of flash, sdpa, math (default all)")
    throughput.add_argument("--size", type=at_least(1), default=224, help="of images in pixels (default 224)")
    data.add_argument("images", metavar="DIR|CSV", help="what data.path takes")
    for what in (step, data):
        what.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="as for train (default dinov2_vits16)")
        what.add_argument("options", nargs="*", metavar="key=value", help="as for train")
    attention.set_defaults(verb=run_bench_attention)
    throughput.set_defaults(verb=run_bench_throughput)
    step.set_defaults(verb=run_bench_step)
    data.set_defaults(verb=run_bench_data)
    for what in (attention, throughput, step, data):
        what.add_argument("--seconds", type=seconds, default=2.0, help="that each variant is measured (default 2)")
        what.add_argument("--out", type=Path, default=Path("runs/bench"), help="results' folder (default runs/bench)")


def run_bench_attention(args: argparse.Namespace) -> int:
    from dinolab.bench.attention import bench
    from dinolab.bench.common import setting

    on = setting(args.device, args.precision, args.seconds)
    bench(args.models, args.sizes, args.batch, args.backends, on, args.out)
    return 0


def run_bench_throughput(args: argparse.Namespace) -> int:
    from dinolab.bench.common import setting
    from dinolab.bench.throughput import bench

    bench(args.models, args.size, args.batch, setting(args.device, args.precision, args.seconds), args.out)
    return 0


def run_bench_step(args: argparse.Namespace) -> int:
    from dinolab.bench.step import bench

    options = split_config(args)
    bench(args.config, options, args.seconds, args.out)
    return 0


def run_bench_data(args: argparse.Namespace) -> int:
    from dinolab.bench.data import bench

    options = split_config(args)
    bench(args.images, args.config, options, args.seconds, args.out)
    return 0
