"""Options of everything that computes features of images."""

from dataclasses import dataclass

from dinolab.config import parse_size
from dinolab.fields import option
from dinolab.options import Columns

TOKENS = ("cls", "patches", "both")  # the class token, the mean of the patches, or one after the other
PRECISIONS = ("auto", "fp32", "bf16")
FOLDER = "~/.cache/dinolab/features"


@dataclass
class FeatureOptions:
    """How features are computed, and where they are kept."""

    size: str = option(
        "", "side of images in pixels, or height and width as 224x336 (empty: the encoder's)", check=parse_size
    )
    precision: str = option(
        "auto",
        "number type of matrix products; auto: bf16 where that is fast",
        choices=PRECISIONS,
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps")
    workers: int = option(-1, "processes that load images (-1: by the number of cores; 0: none)", -1, 1024)
    cache: str = option(FOLDER, "folder that keeps features for the next time (none: keep nothing)")


@dataclass
class EmbedOptions(Columns, FeatureOptions):
    """Options of `dinolab embed`."""

    data: str = option("", "images: a folder, a CSV, shards or a dataset, as data.path takes them", required=True)
    out: str = option("", "file to write, NAME.npz; a call from Python may leave it empty and writes no file then")
    patches: bool = option(False, "also write the mean of each image's patches")
