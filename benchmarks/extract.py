"""Does feature extraction keep the device busy? Its images/s over those of the bare forward.

    python benchmarks/extract.py --photos DIR [--images 1024] [--rounds 3] [--device auto] [--workers N] [--size 224]
                                 [--model small/16 | --encoder RUN_OR_MODEL] [--precision fp32] [--out docs/results/extract.json]

In each round, in one process: the forward alone, in the batches that extraction makes, of images that lie on the device already;
then `dinolab.features.extract.extract` of as many photos, with everything that belongs to it: starting the loading processes,
reading, decoding, resizing, copying, digests. The ratio is taken within the round; 1 would be a device that never waits. With
random weights unless an encoder is named. ViT-S/16 at 224 pixels on 2 cores: about 4 minutes.
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
from dinolab.features.extract import extract
from dinolab.features.inputs import extraction_arguments
from dinolab.features.options import FeatureOptions
from dinolab.machine import environment
from dinolab.models.encoder import BackboneEncoder, Encoder, evaluating
from dinolab.models.vit import ViT
from dinolab.precision import autocast, choose_precision
from dinolab.timing import describe, seconds_of
from dinolab.weights.load import load

BATCH = 64  # as `extract` has it


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
    given = args.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    encoder = load(given.encoder) if given.encoder else BackboneEncoder(ViT(parse_model(given.model), 224))
    how = FeatureOptions(given.size, given.precision, given.device, given.workers, cache="none")
    options = extraction_arguments(encoder, how, progress=False)  # by default as many workers as `dinolab eval`
    device, (height, width) = options["device"], options["size"]
    encoder.to(device)
    photos = subset(open_source(given.photos, option="--photos"), given.images, seed=0)
    images = torch.randint(0, 256, (BATCH, 3, height, width), dtype=torch.uint8, device=device)
    bare = partial(forward_all, encoder, images, len(photos), given.precision)
    whole = partial(extract, encoder, photos, **options)

    forward_all(encoder, images, BATCH, given.precision)
    extract(encoder, subset(photos, BATCH, seed=0), **options)  # warm: what is loaded at the first call
    rounds: list[dict[str, float]] = []
    for _ in range(given.rounds):
        alone, extraction = seconds_of(bare, device), seconds_of(whole, device)
        rounds.append({
            "forward_images_per_s": len(photos) / alone, "extract_images_per_s": len(photos) / extraction, "ratio": alone / extraction
        })  # fmt: skip
    middle = {key: statistics.median(found[key] for found in rounds) for key in rounds[0]}
    facts: dict[str, Any] = {
        "command": " ".join(["python benchmarks/extract.py", *sys.argv[1:]]),
        "encoder": given.encoder or given.model,
        "size": [height, width],
        "images": len(photos),
        "batch_size": BATCH,
        "precision": given.precision,
        "device": describe(device),
        "workers": options["workers"],
        "median": middle,
        "rounds": rounds,
        "environment": environment(),
    }
    given.out.write_text(json.dumps(facts, indent=2) + "\n")
    print(
        f"{describe(device)}, {options['workers']} workers, {given.precision}: forward {middle['forward_images_per_s']:,.1f} images/s"
    )
    print(f"extraction {middle['extract_images_per_s']:,.1f} images/s, {middle['ratio']:.0%} of the forward")


if __name__ == "__main__":
    main()
