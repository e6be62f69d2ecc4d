"""Does feature extraction keep the device busy? Compare its images per second with those of the forward pass alone.

    python benchmarks/extract.py --photos DIR [--images 1024] [--rounds 3] [--device auto] [--workers N] [--size 224]
                                 [--model small/16 | --encoder RUN_OR_MODEL] [--precision fp32] [--out docs/results/extract.json]

Each round first measures the forward pass alone, on images that are on the device already, in batches as large as extraction makes
them. Then it measures `dinolab.features.extract.extract` on as many photos, with everything that belongs to it: starting the loading
processes, reading, decoding, resizing, copying and hashing. The ratio is computed within the round; 1 would be a device that never
waits. The weights are random unless an encoder is named. ViT-S/16 at 224 pixels takes about 4 minutes on 2 cores.
"""

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dinolab.bench.attention import parse_model
from dinolab.data.sources import open_source, subset
from dinolab.errors import UserError
from dinolab.features.extract import extract
from dinolab.features.inputs import extraction_arguments
from dinolab.features.options import FeatureOptions
from dinolab.machine import environment
from dinolab.models.encoder import BackboneEncoder, Encoder, evaluating
from dinolab.models.vit import ViT
from dinolab.precision import autocast, choose_precision
from dinolab.timing import describe, seconds_of
from dinolab.weights.load import load

BATCH = 64  # the default of `extract`


def forward_all(encoder: Encoder, images: torch.Tensor, count: int, precision: str) -> None:
    with evaluating(encoder), autocast(images.device, choose_precision(precision, images.device)):
        for start in range(0, count, len(images)):
            encoder(images[: count - start])


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--photos", required=True)
    args.add_argument("--images", type=int, default=1024)
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--model", default="small/16")
    args.add_argument("--encoder")
    args.add_argument("--size", default="224")
    args.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    args.add_argument("--device", default="auto")
    args.add_argument("--workers", type=int, default=-1)
    args.add_argument("--out", type=Path, default=Path("docs/results/extract.json"))
    options = args.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    encoder = load(options.encoder) if options.encoder else BackboneEncoder(ViT(parse_model(options.model), 224))
    how = FeatureOptions(options.size, options.precision, options.device, options.workers, cache="none")
    arguments = extraction_arguments(encoder, how, progress=False)  # by default as many workers as `dinolab eval`
    device, (height, width) = arguments["device"], arguments["size"]
    encoder.to(device)
    photos = subset(open_source(options.photos, option="--photos"), options.images, seed=0)
    images = torch.randint(0, 256, (BATCH, 3, height, width), dtype=torch.uint8, device=device)
    bare = partial(forward_all, encoder, images, len(photos), options.precision)
    whole = partial(extract, encoder, photos, **arguments)

    forward_all(encoder, images, BATCH, options.precision)
    extract(encoder, subset(photos, BATCH, seed=0), **arguments)  # warms up: the first call loads libraries
    rounds: list[dict[str, float]] = []
    for _ in range(options.rounds):
        alone, extraction = seconds_of(bare, device), seconds_of(whole, device)
        rounds.append({
            "forward_images_per_s": len(photos) / alone, "extract_images_per_s": len(photos) / extraction, "ratio": alone / extraction
        })  # fmt: skip
    middle = {key: statistics.median(found[key] for found in rounds) for key in rounds[0]}
    facts: dict[str, Any] = {
        "command": " ".join(["python benchmarks/extract.py", *sys.argv[1:]]),
        "encoder": options.encoder or options.model,
        "size": [height, width],
        "images": len(photos),
        "batch_size": BATCH,
        "precision": options.precision,
        "device": describe(device),
        "workers": arguments["workers"],
        "median": middle,
        "rounds": rounds,
        "environment": environment(),
    }
    options.out.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{describe(device)}, {arguments['workers']} workers, {options.precision}", end=": ")
    print(f"forward {middle['forward_images_per_s']:,.1f} images/s")
    print(f"extraction {middle['extract_images_per_s']:,.1f} images/s, {middle['ratio']:.0%} of the forward")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from error
