"""dinolab VERB [CONFIG.yaml] [key=value ...]"""

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dinolab.config import Config, load_config, option_lines
from dinolab.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 a mistake the user can mend, 128 + signal when stopped by one (the state is saved)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    top = parser()
    args, rest = top.parse_known_args(argv)  # argparse does not take options between positional words
    if rest and (not hasattr(args, "options") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    args.options = [*getattr(args, "options", []), *rest]
    try:
        return args.verb(args)
    except (UserError, OSError) as error:
        print(f"dinolab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def run_until_stopped(work: Callable[[], object]) -> int:
    """Do the work; a signal that ends it, with the state saved, becomes the exit status."""
    from dinolab.training.loop import Interrupted

    try:
        work()
    except Interrupted as stop:
        print(f"dinolab: {stop}; saved. The same command goes on from here.", file=sys.stderr)
        return 128 + stop.signum
    return 0


def at_least(low: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {low} or more")
        return int(text)

    return number


def size_in_bytes(text: str) -> int:
    number, factor = text[:-1], {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:].upper())
    if factor is None:
        number, factor = text, 1
    if not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, as 500M or 1G")
    return int(number) * factor


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="dinolab", description="Self-supervised vision on your own images.")
    verbs = top.add_subparsers(title="verbs", required=True, metavar="VERB")

    train = verbs.add_parser(
        "train",
        help="pretrain DINO or DINOv2 on a folder of images; the same command again resumes",
        description="Pretrain on images. The same command again goes on where the run stopped, exactly.",
        epilog="options (key=value):\n" + "\n".join(option_lines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument(
        "config", nargs="?", metavar="CONFIG.yaml", help="a recipe: a file, or one of dinolab's own by name"
    )
    train.add_argument("options", nargs="*", metavar="key=value", help="options over the recipe; all are listed below")
    train.add_argument(
        "--resume", action="store_true", help="only go on, never start anew; CONFIG may be the run's folder"
    )
    train.add_argument("--show-schedules", action="store_true", help="draw the schedules into schedules.png and stop")
    train.set_defaults(verb=run_train)

    plan = verbs.add_parser(
        "plan",
        help="how long a run will take, how much memory, and what holds it up, from a few real steps",
        description="Take a few real steps, leave nothing behind, and say how long the run will take, how much memory, whether "
        "the loader or the device is the limit, and what to change. Options are those of train.",
    )
    plan.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="as for train")
    plan.add_argument("options", nargs="*", metavar="key=value", help="as for train; data.path=DIR is needed")
    plan.add_argument("--steps", type=at_least(1), default=20, help="steps that are measured (default 20)")
    plan.add_argument("--json", metavar="FILE", type=Path, help="also write all figures into this file")
    plan.set_defaults(verb=run_plan)

    knn = verbs.add_parser(
        "knn",
        help="k-NN accuracy of a run's features on labelled images",
        description="k-NN accuracy of a run's features; prints one line of JSON.",
    )
    knn.add_argument("encoder", metavar="RUN", help="a run's folder, or `pixels` for the floor")
    knn.add_argument("--train", required=True, metavar="DIR|CSV", help="labelled images that vote")
    knn.add_argument("--test", required=True, metavar="DIR|CSV", help="labelled images that are asked")
    knn.add_argument(
        "--size", type=at_least(1), default=None, help="side of the images in pixels (default: the run's own)"
    )
    knn.add_argument("-k", type=at_least(1), default=20, help="neighbours that vote (default 20)")
    knn.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    knn.add_argument("--workers", type=at_least(0), default=2, help="processes that load images (default 2)")
    knn.set_defaults(verb=run_knn)

    data = verbs.add_parser("data", help="prepare images; `data pack` shrinks them into shards")
    jobs = data.add_subparsers(title="jobs", required=True, metavar="JOB")
    pack = jobs.add_parser(
        "pack",
        help="shrink a source once, into tar shards that are a source themselves",
        description="Write the images of a source, in its order, as JPEGs with their labels into WebDataset shards, "
        "OUT/shard-000000.tar and so on. Images with a longer short side are shrunk; smaller upright JPEGs are copied. "
        "OUT appears when it is whole.",
    )
    pack.add_argument("source", metavar="SRC", help="what data.path takes: a folder, a CSV, shards, a dataset, ...")
    pack.add_argument("out", metavar="OUT", help="folder to make")
    pack.add_argument("--short-side", type=at_least(1), default=256, help="in pixels, at most (default 256)")
    pack.add_argument(
        "--quality", type=int, choices=range(1, 101), default=95, metavar="1-100", help="of JPEGs (default 95)"
    )
    pack.add_argument("--shard-size", type=size_in_bytes, default="1G", help="bytes a shard holds at most (default 1G)")
    pack.add_argument("--workers", type=at_least(0), default=0, help="threads (default 0: one a core)")
    pack.add_argument("--filename-column", default="filename", help="of a CSV (default filename)")
    pack.add_argument(
        "--label-column", default="label", help="of a CSV, a dataset or .json files in shards (default label)"
    )
    pack.set_defaults(verb=run_pack)

    add_bench(verbs.add_parser("bench", help="measure speed and memory on this machine"))

    demo = verbs.add_parser(
        "demo",
        help="train on the embedded digit scenes in a few minutes, and say what it learned",
        description="Train on scenes made of scikit-learn's handwritten digits and print k-NN accuracy on held-out digits "
        "for raw pixels, the network before training and the network after.",
    )
    demo.add_argument("folder", nargs="?", default="runs/demo", help="where everything goes (default runs/demo)")
    demo.set_defaults(verb=run_demo)
    return top


def add_bench(bench: argparse.ArgumentParser) -> None:
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


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return number


def run_train(args: argparse.Namespace) -> int:
    words = split_config(args)
    if args.resume and args.config and Path(args.config).is_dir():
        cfg = load_config(Path(args.config) / "config.yaml", [*words, f"run.dir={args.config}"])
    else:
        cfg = load_config(args.config, words)
    if args.show_schedules:
        return show_schedules(cfg, Path("schedules.png"))

    from dinolab.pretrain import train

    return run_until_stopped(lambda: train(cfg, resume=args.resume))


def split_config(args: argparse.Namespace) -> list[str]:
    """The key=value words; args.config is None where there is no recipe before them."""
    if args.config and "=" in args.config:
        args.options.insert(0, args.config)
        args.config = None
    return args.options


def show_schedules(cfg: Config, out: Path) -> int:
    from dinolab.pretrain import open_data
    from dinolab.training.schedules import Schedules
    from dinolab.visuals.curves import plot_schedules

    schedules = Schedules(cfg, len(open_data(cfg, cache=None)))
    every = max(1, schedules.total // 1000)
    steps = [*range(0, schedules.total, every), schedules.total - 1]
    plot_schedules([{"step": step, **schedules(step).figures()} for step in steps], out)
    print(f"{schedules.total} steps of {cfg.optim.batch_size}, {schedules.steps_per_epoch:.1f} steps an epoch: {out}")
    return 0


def run_plan(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from dinolab.plan import advice, plan, words

    options = split_config(args)
    cfg = load_config(args.config, options)
    if args.json and not args.json.parent.is_dir():
        raise UserError(f"--json {args.json}: there is no folder {args.json.parent}")
    made = plan(cfg, args.steps, say=lambda text: print(text, file=sys.stderr))
    print(words(made))
    if args.json:
        args.json.write_text(
            json.dumps({**asdict(made), "limit": made.pace.limit, "advice": advice(made)}, indent=2) + "\n"
        )
    return 0


def run_knn(args: argparse.Namespace) -> int:
    import json

    from dinolab.data.sources import open_source
    from dinolab.evals.knn import evaluate
    from dinolab.evals.pixels import PixelEncoder
    from dinolab.models.weights import load
    from dinolab.pretrain import choose_device

    encoder = PixelEncoder() if args.encoder == "pixels" else load(args.encoder)
    votes = open_source(args.train, need_labels=True, option="--train")
    asked = open_source(args.test, need_labels=True, option="--test")
    size = args.size or getattr(encoder, "image_size", 224)
    device = choose_device(args.device, "--device ")
    print(json.dumps(evaluate(encoder, votes, asked, size, args.k, device, args.workers, sys.stderr.isatty())))
    return 0


def run_pack(args: argparse.Namespace) -> int:
    from dinolab.data.pack import pack
    from dinolab.data.sources import open_source

    source = open_source(
        args.source, filename_column=args.filename_column, label_column=args.label_column, option="SRC"
    )
    done = pack(
        source, args.out, args.short_side, args.quality, args.shard_size, args.workers, progress=sys.stderr.isatty()
    )
    labels = f"{len(source.classes)} classes" if source.classes else "no labels"
    print(
        f"{args.out}: {done['images']:,} images ({done['kept']:,} as they were), {labels}, shards: {done['shards']}, "
        f"{done['bytes_after'] / 1e6:,.1f} MB (before: {done['bytes_before'] / 1e6:,.1f} MB), "
        f"{done['images'] / done['seconds']:,.0f} images/s"
    )
    return 0


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


def run_demo(args: argparse.Namespace) -> int:
    from dinolab.demo import demo

    return run_until_stopped(lambda: demo(Path(args.folder)))
