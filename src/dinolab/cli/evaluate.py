"""dinolab knn."""

import argparse
import sys
from typing import Any

from dinolab.cli.words import at_least


def add(verbs: Any) -> None:
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
