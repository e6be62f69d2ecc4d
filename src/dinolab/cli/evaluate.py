"""dinolab eval knn, logreg and linear, and dinolab embed."""

import argparse
import sys
from pathlib import Path
from typing import Any

from dinolab.cli.words import at_least
from dinolab.errors import UserError


def add(verbs: Any) -> None:
    evaluate = verbs.add_parser("eval", help="how good an encoder's features are on labelled images")
    protocols = evaluate.add_subparsers(title="evaluations", required=True, metavar="HOW")
    about = {
        "knn": "the weighted vote of the nearest training images, as DINO",
        "logreg": "logistic regression, its penalty by cross-validation",
        "linear": "linear heads over DINOv2's grid, the best by validation",
    }
    for name, does in about.items():
        how = protocols.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}; on frozen features.")
        how.add_argument(
            "encoder", metavar="RUN_OR_MODEL", help="a run, weights or a model's name, or `pixels`, the floor"
        )
        how.add_argument("--train", required=True, metavar="DIR|CSV", help="labelled images to learn from")
        how.add_argument(
            "--test", metavar="DIR|CSV", help="images to be asked of (default: a fifth of each class of --train)"
        )
        how.add_argument("--out", type=Path, metavar="DIR", help=f"default RUN/eval/{name} or runs/eval/NAME/{name}")
        if name == "knn":
            how.add_argument("-k", type=at_least(1), default=20, help="neighbours that vote (default 20)")
        if name != "linear":
            how.add_argument(
                "--tokens", choices=("cls", "patches", "both"), default="cls",
                help="class token, mean of the patches, or both (default cls)",
            )  # fmt: skip
            how.add_argument(
                "--blocks", type=at_least(1), default=1, help="last blocks whose class tokens count (default 1)"
            )
        how.add_argument("--seed", type=at_least(0), default=0, help="of splits and heads (default 0)")
        add_features(how)
        how.set_defaults(verb=run_eval, protocol=name)

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


def add_features(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--size", type=sides, metavar="N|HxW", help="of the images in pixels (default: the encoder's own)"
    )
    verb.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the encoder (default fp32)")
    verb.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    verb.add_argument("--workers", type=at_least(0), default=2, help="processes that load images (default 2)")
    verb.add_argument("--cache", type=Path, metavar="DIR", help="keeps features (default ~/.cache/dinolab/features)")


def sides(text: str) -> int | tuple[int, int]:
    """224 or 224x336, height first."""
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isdecimal() and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in pixels, as 224 or 224x336 (height first)")
    height, width = int(numbers[0]), int(numbers[-1])
    return height if len(numbers) == 1 else (height, width)


def feature_options(args: argparse.Namespace) -> dict[str, Any]:
    from dinolab.evals.cache import FOLDER
    from dinolab.pretrain import choose_device

    return {
        "size": args.size,
        "precision": args.precision,
        "device": choose_device(args.device, "--device "),
        "workers": args.workers,
        "cache": args.cache or FOLDER,
        "progress": sys.stderr.isatty(),
    }


def run_eval(args: argparse.Namespace) -> int:
    from rich.console import Console

    from dinolab.evals.evaluate import evaluate
    from dinolab.evals.results import table
    from dinolab.training.log import environment

    chosen = {name: getattr(args, name) for name in ("k", "tokens", "blocks", "seed") if hasattr(args, name)}
    out = args.out or default_out(args.encoder) / args.protocol
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
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


def default_out(encoder: str) -> Path:
    """A run's results lie in its folder; others' under their name."""
    run = Path(encoder)
    if run.is_dir():
        return run / "eval"
    return Path("runs/eval") / "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in run.name)


def run_embed(args: argparse.Namespace) -> int:
    from dinolab.evals.evaluate import embed

    found = embed(args.encoder, args.data, args.out, patches=args.patches, **feature_options(args))
    images, width = found["cls"].shape
    print(f"{args.out}: {images:,} images, {width} features each, {len(found['classes'])} classes")
    return 0
