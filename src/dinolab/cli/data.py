"""dinolab data pack."""

import argparse
import sys
from typing import Any

from dinolab.cli.parse import at_least, size_in_bytes


def add(verbs: Any) -> None:
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
    pack.add_argument("--images", default="", help="folder that a CSV's or text file's names are relative to")
    pack.add_argument("--filename-column", default="filename", help="of a CSV (default filename)")
    pack.add_argument(
        "--label-column", default="label", help="of a CSV, a dataset or .json files in shards (default label)"
    )
    pack.set_defaults(verb=run_pack)


def run_pack(args: argparse.Namespace) -> int:
    from dinolab.data.pack import pack
    from dinolab.data.sources import open_source

    source = open_source(
        args.source, args.images, filename_column=args.filename_column, label_column=args.label_column, option="SRC"
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
