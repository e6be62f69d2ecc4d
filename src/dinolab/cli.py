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
    if rest and (args.verb is not run_train or any(word.startswith("-") for word in rest)):
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
    if args.resume and args.config and Path(args.config).is_dir():
        cfg = load_config(Path(args.config) / "config.yaml", [*words, f"run.dir={args.config}"])
    else:
        cfg = load_config(args.config, words)
    if args.show_schedules:
        return show_schedules(cfg, Path("schedules.png"))

    from dinolab.pretrain import train

    return run_until_stopped(lambda: train(cfg, resume=args.resume))


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
    device = choose_device(args.device, "--device ")
    print(json.dumps(evaluate(encoder, votes, asked, size, args.k, device, args.workers, sys.stderr.isatty())))
    return 0


def run_demo(args: argparse.Namespace) -> int:
    from dinolab.demo import demo

    return run_until_stopped(lambda: demo(Path(args.folder)))
