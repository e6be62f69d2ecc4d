"""Options of the verbs of `dinolab curate`."""

from dataclasses import dataclass, fields
from typing import TypeVar

from dinolab.config import parse_size
from dinolab.features.options import PRECISIONS
from dinolab.fields import option
from dinolab.options import Columns

T = TypeVar("T")
SPACES = ("whitened", "raw")
INDEXES = ("lists", "faiss")
NUMBERS = ("float32", "float16", "none")
KEEP = ("largest", "first", "newest")


@dataclass
class Embedded:
    """What is embedded, and by which encoder."""

    data: str = option("", "images: a folder, a CSV, shards or a dataset, as data.path takes them", required=True)
    encoder: str = option("starter", "a run's folder, a .pth file, hf:NAME, timm:NAME, starter or pixels")


@dataclass
class Searched:
    """How neighbours are searched."""

    seed: int = option(0, "another seed draws other samples", 0)
    probes: int = option(8, "lists that are searched for an image; more find more of the true neighbours", 1, 4096)
    search_device: str = option("auto", "where similarities are computed: auto, cpu, cuda, cuda:1 or mps")
    index: str = option("lists", "what is searched: full rows, or compressed ones in memory", choices=INDEXES)


@dataclass
class Loaded:
    """How images are embedded."""

    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps")
    workers: int = option(-1, "processes that load images (-1: by the number of cores; 0: none)", -1, 1024)


@dataclass
class Viewed(Loaded):
    """How images are embedded."""

    size: str = option(
        "", "side of images in pixels, or height and width as 224x336 (empty: the encoder's)", check=parse_size
    )
    precision: str = option("auto", "number type of matrix products; auto: bf16 where that is fast", choices=PRECISIONS)


@dataclass
class Copied:
    """Which images are copies of each other, and which of them is kept."""

    threshold: float = option(0.6, "cosine similarity above which two images are near-copies", -1, 1)
    against: list[str] = option([], "test images, as data.path takes them; whatever is near them goes")
    threshold_against: float = option(0.45, "cosine similarity above which an image is near a test image", -1, 1)
    space: str = option("whitened", "embeddings that are compared: spread evenly, or as they are", choices=SPACES)
    keep: str = option("largest", "which one of a group of copies is kept", choices=KEEP)


@dataclass
class Retrieved:
    """Which images are like the curated ones."""

    curated: str = option("", "curated images, as data.path takes them", required=True)
    by: str = option("neighbours", "how images are found", choices=("neighbours", "clusters"))
    per_image: int = option(4, "by=neighbours: nearest images that each curated image brings in", 1, 10000)


@dataclass
class EmbedOptions(Embedded, Viewed, Columns):
    """Options of `curate embed`."""


@dataclass
class PlanOptions(Viewed):
    """What is planned."""

    data: str = option("", "images, as data.path takes them; empty: those of the set, which are not embedded again")
    images: int = option(0, "number of images; 0: as many as there are in data, or in the set", 0)
    curated: int = option(0, "number of curated images; 0 leaves retrieve out", 0)
    encoder: str = option("starter", "encoder that embeds the images of data, as of `curate embed`")
    search_device: str = option("auto", "where similarities are computed: auto, cpu, cuda, cuda:1 or mps")


@dataclass
class DedupOptions(Copied, Searched, Loaded):
    """Which images are copies of each other, and which of them is kept."""

    neighbours: int = option(64, "nearest neighbours that are compared with the threshold", 1, 1024)
    hash_bits: int = option(6, "bits of 64 in which the perceptual hashes of copies may differ (-1: no hashes)", -1, 16)
    most: int = option(1000, "images of a group; a larger one is cut by higher thresholds", 2)


@dataclass
class RetrieveOptions(Retrieved, Searched, Loaded):
    """Which images are like the curated ones."""

    clusters: int = option(0, "by=clusters: number of clusters (0: the square root of the number of images)", 0)
    at_least: int = option(4, "by=clusters: curated images in a cluster from which on it is taken", 1)
    per_cluster: int = option(10000, "by=clusters: images drawn from such a cluster, at most", 1)


@dataclass
class SampleOptions:
    """How many images are drawn, and how they are balanced."""

    size: int = option(0, "images to draw", 1, required=True)
    levels: int = option(3, "levels of the hierarchy of clusters", 1, 6)
    clusters: list[int] = option([], "clusters of each level, the first one first (empty: by the number of images)", 1)
    resamplings: int = option(
        9, "times that each level is clustered again on the rows nearest to its centroids", 0, 100
    )
    iterations: int = option(50, "iterations of each k-means, at most", 1, 1000)
    learned: int = option(256, "images for each cluster from which centroids are learned, at most", 8)
    draw: str = option("random", "which images of a cluster are drawn", choices=("random", "closest"))
    seed: int = option(0, "another seed draws other images", 0)
    search_device: str = option("auto", "where clusters are computed: auto, cpu, cuda, cuda:1 or mps")


@dataclass
class ReviewOptions:
    """Where a person's decisions are."""

    decisions: str = option("", "CSV file with the columns image and decision, keep or drop (empty: OUT/review.csv)")


@dataclass
class ExportOptions:
    """What is written where."""

    to: str = option("", "folder to write to", required=True)
    images: bool = option(True, "also write the images, as the files hold them")
    embeddings: str = option("float32", "number type of the embeddings; none writes none", choices=NUMBERS)
    per_file: int = option(1000, "images of a file", 1, 1_000_000)


@dataclass
class AuditOptions(Searched):
    """What counts as a finding, and how many findings the page shows."""

    shown: int = option(24, "findings of each kind that the page shows, the worst ones first", 1, 1000)
    neighbours: int = option(10, "nearest images that each image is compared with", 1, 1024)
    space: str = option("whitened", "embeddings that are compared: spread evenly, or as they are", choices=SPACES)
    threshold: float = option(0.6, "cosine similarity above which two images of a source are near-copies", -1, 1)
    threshold_leak: float = option(0.45, "the same for two images of different sources", -1, 1)
    hash_bits: int = option(6, "bits of 64 in which the perceptual hashes of copies may differ (-1: no hashes)", -1, 16)
    outlier: float = option(
        3.5, "standard deviations beyond the usual distance from which on an image is an outlier", 0
    )
    blurred: float = option(0.1, "share of the set's median sharpness below which an image is blurred", 0, 1)
    contrast: float = option(8.0, "standard deviation of pixel values below which an image is nearly empty", 0, 128)
    tiny: int = option(64, "pixels of the shorter side below which an image is tiny", 0)
    label_share: float = option(
        0.7, "share of the neighbours with one other label from which on a label is doubtful", 0, 1
    )


@dataclass
class AllOptions(Embedded, Copied, Retrieved, Searched, Loaded):
    """The main options of embed, dedup and retrieve."""

    def part(self, schema: type[T]) -> T:
        """The options of one of these stages; those that are not here have their defaults."""
        names = [f.name for f in fields(schema) if hasattr(self, f.name)]  # type: ignore[arg-type]
        return schema(**{name: getattr(self, name) for name in names})
