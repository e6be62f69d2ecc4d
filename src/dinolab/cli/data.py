"""dinolab data pack."""

import sys
from dataclasses import dataclass

from dinolab.cli.grammar import Family, Positional, Verb
from dinolab.config import parse_bytes
from dinolab.errors import say
from dinolab.fields import option
from dinolab.options import Columns


@dataclass
class Pack(Columns):
    short_side: int = option(256, "short side of the images in pixels, at most", 1)
    quality: int = option(95, "quality of the JPEGs", 1, 100)
    shard_size: str = option("1G", "bytes in a shard, at most: 500M, 1G", check=parse_bytes)
    workers: int = option(0, "threads (0: one for each core)", 0)


def run_pack(src: str, out: str, own: Pack) -> int:
    from dinolab.data.pack import pack
    from dinolab.data.sources import open_source

    source = open_source(src, own, need_labels="label_column" in own.chosen(), option="SRC")
    shard_size = parse_bytes(own.shard_size, "shard_size")
    done = pack(source, out, own.short_side, own.quality, shard_size, own.workers, progress=sys.stderr.isatty())
    labels = f"{len(source.classes)} classes" if source.classes else "no labels"
    say(
        f"{out}: {done['images']:,} images ({done['kept']:,} copied unchanged), {labels}, shards: {done['shards']}, "
        f"{done['bytes_after'] / 1e6:,.1f} MB (before: {done['bytes_before'] / 1e6:,.1f} MB), "
        f"{done['images'] / done['seconds']:,.0f} images/s"
    )
    return 0


PACK = Verb(
    "shrink images once, into tar shards that train reads fast",
    run_pack,
    about="Write the images of a source, in its order, as JPEGs with their labels into WebDataset shards, OUT/shard-000000.tar and so "
    "on. Images with a longer short side are shrunk; smaller upright JPEGs are copied unchanged. OUT appears when it is complete.",
    positionals=(
        Positional("SRC", "images, as data.path takes them: a folder, a CSV, shards, a dataset, ..."),
        Positional("OUT", "folder to create"),
    ),
    options=(Pack,),
    examples=("data pack photos photos-256 short_side=256",),
)

DATA = Family("prepare images", lambda: {"pack": PACK}, "task")
