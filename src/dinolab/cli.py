"""dinolab VERB [CONFIG.yaml] [key=value ...]"""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from dinolab.config import Config, load_config, option_lines
from dinolab.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 a mistake the user can mend, 128 + signal when stopped by one (the state is saved)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    args = parser().parse_args(argv)
    try:
        return args.verb(args)
    except UserError as error:
        print(f"dinolab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


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
        "--resume", metavar="RUN", nargs="?", const="", help="go on with RUN (or run.dir), never start anew"
    )
    train.add_argument(
        "--show-schedules", metavar="PNG", nargs="?", const="schedules.png", help="plot the schedules and stop"
    )
    train.set_defaults(verb=run_train)

    knn = verbs.add_parser(
        "knn",
        help="k-NN accuracy of a run's features on labelled images",
        description="k-NN accuracy of a run's features; prints one line of JSON.",
    )
    knn.add_argument("encoder", metavar="RUN", help="a run's folder, or `pixels` for the floor")
    knn.add_argument("--train", required=True, metavar="DIR|CSV", help="labelled images that vote")
    knn.add_argument("--test", required=True, metavar="DIR|CSV", help="labelled images that are asked")
    knn.add_argument("--size", type=int, default=0, help="side of the images in pixels (default: the run's own)")
    knn.add_argument("-k", type=int, default=20, help="neighbours that vote (default 20)")
    knn.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    knn.add_argument("--workers", type=int, default=2, help="processes that load images (default 2)")
    knn.set_defaults(verb=run_knn)

    demo = verbs.add_parser(
        "demo",
        help="train on the embedded digit scenes in a few minutes, and say what it learned",
        description="Train on scenes made of scikit-learn's handwritten digits and print k-NN accuracy on held-out digits "
        "for raw pixels, the network before training and the network after.",
    )
    demo.add_argument("folder", nargs="?", default="runs/demo", help="where everything goes (default runs/demo)")
    demo.set_defaults(verb=run_demo)
    return top


def run_train(args: argparse.Namespace) -> int:
    words = list(args.options)
    if args.config and "=" in args.config:  # no recipe, options alone
        words.insert(0, args.config)
        args.config = None
    if args.resume:
        cfg = load_config(Path(args.resume) / "config.yaml", [*words, f"run.dir={args.resume}"])
    else:
        cfg = load_config(args.config, words)
    if args.show_schedules:
        return show_schedules(cfg, Path(args.show_schedules))

    from dinolab.pretrain import train
    from dinolab.training.loop import Interrupted

    try:
        train(cfg, resume=args.resume is not None)
    except Interrupted as stop:
        print(f"dinolab: {stop}; saved. The same command goes on from here.", file=sys.stderr)
        return 128 + stop.signum
    return 0


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
    device = choose_device(args.device)
    print(json.dumps(evaluate(encoder, votes, asked, size, args.k, device, args.workers, sys.stderr.isatty())))
    return 0


def run_demo(args: argparse.Namespace) -> int:
    from dinolab.demo import demo
    from dinolab.training.loop import Interrupted

    try:
        demo(Path(args.folder))
    except Interrupted as stop:
        print(f"dinolab: {stop}; saved. The same command goes on from here.", file=sys.stderr)
        return 128 + stop.signum
    return 0
