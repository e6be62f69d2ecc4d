"""dinolab eval, by one protocol or by all, and dinolab embed."""

import argparse
import sys
from pathlib import Path
from typing import Any

from dinolab.cli.parse import at_least
from dinolab.errors import UserError
from dinolab.files import file_name
from dinolab.machine import loaders


def add(verbs: Any) -> None:
    evaluate = verbs.add_parser("eval", help="how good an encoder's features are on labelled images")
    protocols = evaluate.add_subparsers(title="evaluations", required=True, metavar="HOW")
    about = {
        "knn": "the weighted vote of the nearest training images, as DINO",
        "logreg": "logistic regression, its penalty by cross-validation",
        "linear": "linear heads over DINOv2's grid, the best by validation",
        "linear-dino": "DINO's linear protocol: SGD on random crops and flips, the best learning rate by validation",
        "finetune": "fine-tuning of all weights as in DeiT, with layer-wise learning rates",
    }
    for name, does in about.items():
        frozen = "" if name == "finetune" else "; on frozen features"
        how = protocols.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}{frozen}.")
        how.add_argument(
            "encoder", metavar="RUN_OR_MODEL", help="a run, weights or a model's name, or `pixels`, the floor"
        )
        add_images(how, name)
        if name == "knn":
            how.add_argument("-k", type=at_least(1), default=20, help="neighbours that vote (default 20)")
        if name in ("linear-dino", "finetune"):
            add_training(how, name)
        if name in ("knn", "logreg"):
            how.add_argument(
                "--tokens", choices=("cls", "patches", "both"), default="cls",
                help="class token, mean of the patches, or both (default cls)",
            )  # fmt: skip
            how.add_argument(
                "--blocks", type=at_least(1), default=1, help="last blocks whose class tokens count (default 1)"
            )
        if name == "logreg":
            how.add_argument(
                "--solver", choices=("auto", "scikit-learn", "torch"), default="auto",
                help="auto: scikit-learn on a CPU, torch elsewhere (default auto)",
            )  # fmt: skip
        add_seeds(how)
        add_features(how)
        how.set_defaults(verb=run_eval, protocol=name)

    every = protocols.add_parser(
        "all",
        help="several encoders by several of these, with table and plots",
        description="Evaluate encoders side by side, and measure the images/s of their forward.",
    )
    every.add_argument("encoder", metavar="RUN_OR_MODEL", help="a run, weights or a model's name")
    every.add_argument(
        "--against", nargs="+", default=[], metavar="RUN_OR_MODEL",
        help="others; also `pixels`, the floor, and `untrained`, the run's architecture with initial weights",
    )  # fmt: skip
    every.add_argument(
        "--protocols", nargs="+", choices=list(about), default=["knn", "logreg", "linear"], metavar="HOW",
        help=f"of {', '.join(about)} (default knn logreg linear)",
    )  # fmt: skip
    add_images(every, "all")
    add_seeds(every)
    add_features(every)
    every.set_defaults(verb=run_all)

    embed = verbs.add_parser(
        "embed",
        help="an encoder's features of all images, into an .npz file",
        description="Write cls, labels (numbers in classes, -1 without), classes and names into an .npz file.",
    )
    embed.add_argument("encoder", metavar="RUN_OR_MODEL", help="a run, weights or a model's name, or `pixels`")
    embed.add_argument("--data", required=True, metavar="DIR|CSV", help="images, as data.path takes them")
    embed.add_argument("--out", required=True, metavar="FILE.npz", help="file to write")
    embed.add_argument("--patches", action="store_true", help="also the mean of the patches")
    add_features(embed)
    embed.set_defaults(verb=run_embed)


def add_training(how: argparse.ArgumentParser, name: str) -> None:
    source, batch, rates, many = {
        "linear-dino": ("DINO, arXiv 2104.14294", 128, "several may be given (default 0.0001 to 0.3)", "+"),
        "finetune": ("MAE for a ViT-B, arXiv 2111.06377", 64, "default 0.0005, MAE's for a ViT-B", None),
    }[name]
    how.add_argument("--epochs", type=at_least(1), metavar="N", help=f"default 100, as {source}")
    how.add_argument("--batch-size", type=at_least(1), metavar="N", help=f"images in a batch (default {batch})")
    how.add_argument("--lr", type=float, nargs=many, metavar="RATE", help=f"learning rate for batches of 256; {rates}")


def add_images(how: argparse.ArgumentParser, name: str) -> None:
    how.add_argument("--train", required=True, metavar="DIR|CSV", help="labelled images to learn from")
    how.add_argument(
        "--test", metavar="DIR|CSV",
        help="images to be asked of (default: a fifth of each class of --train, kept in a file beside it)",
    )  # fmt: skip
    how.add_argument("--out", type=Path, metavar="DIR", help=f"default RUN/eval/{name} or runs/eval/NAME/{name}")


def add_seeds(how: argparse.ArgumentParser) -> None:
    how.add_argument("--seed", type=at_least(0), default=0, help="of splits, folds and heads (default 0)")
    how.add_argument(
        "--seeds", type=at_least(1), default=1, metavar="N",
        help="draw splits, folds and heads N times; tells mean and deviation (default 1)",
    )  # fmt: skip


def add_features(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--size", type=sides, metavar="N|HxW", help="of the images in pixels (default: the encoder's own)"
    )
    verb.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the encoder (default fp32)")
    verb.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    verb.add_argument(
        "--workers", type=at_least(0), help="processes that load images (default: by the number of cores)"
    )
    verb.add_argument("--cache", type=Path, metavar="DIR", help="keeps features (default ~/.cache/dinolab/features)")


def sides(text: str) -> int | tuple[int, int]:
    """224 or 224x336, height first."""
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isdecimal() and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in pixels, as 224 or 224x336 (height first)")
    height, width = int(numbers[0]), int(numbers[-1])
    return height if len(numbers) == 1 else (height, width)


def feature_options(args: argparse.Namespace) -> dict[str, Any]:
    from dinolab.features.cache import FOLDER
    from dinolab.parallel import choose_device

    device = choose_device(args.device, "--device ")
    return {
        "size": args.size,
        "precision": args.precision,
        "device": device,
        "workers": loaders(device.type) if args.workers is None else args.workers,
        "cache": args.cache or FOLDER,
        "progress": sys.stderr.isatty(),
    }


def run_eval(args: argparse.Namespace) -> int:
    from rich.console import Console

    from dinolab.evals.evaluate import evaluate
    from dinolab.evals.results import table
    from dinolab.machine import environment

    options_of_some = ("k", "tokens", "blocks", "epochs", "batch_size", "lr", "solver", "seed", "seeds")
    chosen = {name: getattr(args, name) for name in options_of_some if hasattr(args, name)}
    out = choose_out(args, args.protocol)
    options = feature_options(args)
    result = evaluate(
        args.protocol, args.encoder, args.train, args.test, out, environment=environment(), **chosen, **options
    )
    if "accuracy" in result:
        Console().print(table(result))
        print(f"{out}: result.json, confusion.png, predictions.csv")
    else:
        print(f"{out / 'predictions.csv'}: {result['data']['test_images']:,} predictions; no labels, no accuracy")
    return 0


def run_all(args: argparse.Namespace) -> int:
    from rich.console import Console

    from dinolab.evals.compare import compare
    from dinolab.evals.comparison_table import notes, table
    from dinolab.machine import environment

    out = choose_out(args, "all")
    options = feature_options(args) | {"protocols": args.protocols, "seed": args.seed, "seeds": args.seeds}
    summary = compare(args.encoder, args.against, args.train, args.test, out, environment=environment(), **options)
    Console(width=None if sys.stdout.isatty() else 160).print(table(summary))
    print(*notes(summary), sep="\n")
    print(f"{out}: all.json, table.md, accuracy.png, accuracy_over_throughput.png; ENCODER/HOW: result.json, ...")
    return 0


def choose_out(args: argparse.Namespace, name: str) -> Path:
    out = args.out or default_out(args.encoder) / name
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    return out


def default_out(encoder: str) -> Path:
    """A run's results lie in its folder; others' under their name."""
    run = Path(encoder)
    if run.is_dir():
        return run / "eval"
    return Path("runs/eval") / file_name(run.name)


def run_embed(args: argparse.Namespace) -> int:
    from dinolab.features.embed import embed

    found = embed(args.encoder, args.data, args.out, patches=args.patches, **feature_options(args))
    images, width = found["cls"].shape
    print(f"{args.out}: {images:,} images, {width} features each, {len(found['classes'])} classes")
    return 0
