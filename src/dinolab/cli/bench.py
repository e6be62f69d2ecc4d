"""dinolab bench attention, throughput, step and data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinolab.cli.grammar import Family, Positional, Verb
from dinolab.cli.train import CONFIG
from dinolab.fields import option


@dataclass
class Bench:
    seconds: float = option(2.0, "how long each variant is measured, in seconds", 0)
    out: str = option("runs/bench", "folder for the results")


@dataclass
class Inference(Bench):
    models: list[str] = option([], "ViTs as SIZE/PATCH, for example small/16,small/8 (empty: the usual ones)")
    batch: int = option(0, "images at once (0: by device)", 0)
    device: str = option("auto", "auto, cpu, cuda, mps")
    precision: str = option("auto", "auto: bf16 on hardware that is fast in it", choices=("auto", "fp32", "bf16"))


@dataclass
class Attention(Inference):
    sizes: list[int] = option([], "sides of the images in pixels, for example 224,448 (empty: 224 to 518)", 1)
    backends: list[str] = option([], "some of flash, sdpa, math, mixed (empty: all)")


@dataclass
class Throughput(Inference):
    size: int = option(224, "side of the images in pixels", 1)


def run_attention(own: Attention) -> int:
    from dinolab.bench.attention import bench
    from dinolab.bench.common import setting

    on = setting(own.device, own.precision, own.seconds)
    bench(own.models, own.sizes, own.batch or None, own.backends, on, Path(own.out))
    return 0


def run_throughput(own: Throughput) -> int:
    from dinolab.bench.common import setting
    from dinolab.bench.throughput import bench

    on = setting(own.device, own.precision, own.seconds)
    bench(own.models, own.size, own.batch or None, on, Path(own.out))
    return 0


def run_step(config: str | None, own: Bench, words: Sequence[str]) -> int:
    from dinolab.bench.step import bench

    bench(config, words, own.seconds, Path(own.out))
    return 0


def run_data(images: str, config: str | None, own: Bench, words: Sequence[str]) -> int:
    from dinolab.bench.data import bench

    bench(images, config, words, own.seconds, Path(own.out))
    return 0


RECIPE = Positional("CONFIG", f"{CONFIG.help} (default dinov2_vits16)", required=False)

BENCHMARKS = {
    "attention": Verb("attention kernels compared in whole ViTs, by image size", run_attention, options=(Attention,)),
    "throughput": Verb("inference speed by architecture and patch size", run_throughput, options=(Throughput,)),
    "step": Verb(
        "a whole training step, with one thing changed at a time",
        run_step,
        positionals=(RECIPE,),
        options=(Bench,),
        training=True,
    ),
    "data": Verb(
        "reading, decoding, multi-crop and the whole loader on your images",
        run_data,
        positionals=(Positional("IMAGES", "images, as data.path takes them"), RECIPE),
        options=(Bench,),
        training=True,
    ),
}

BENCH = Family("measure speed and memory on this machine", lambda: BENCHMARKS, "benchmark")
