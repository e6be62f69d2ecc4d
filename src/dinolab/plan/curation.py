"""A forecast of what the stages of curation take, from small pieces of their work that are measured here.

N images, D features, L lists, K clusters. What is measured: embedding some images; products with the choice of the largest, for pairs of
rows; products with the nearest centroid; reading and scaling rows. The formulas count how often each of them is done.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dinolab.curation import graph
from dinolab.curation.embedder import Embedder
from dinolab.curation.kmeans import assign
from dinolab.curation.lists import ITERATIONS, SAMPLED, SCORES, SORTED
from dinolab.curation.options import DedupOptions, SampleOptions
from dinolab.curation.sample import choose_counts
from dinolab.data.types import Source
from dinolab.machine import cores
from dinolab.memory import STATUS, entry
from dinolab.plan.text import duration, gigabytes
from dinolab.precision import quick_products
from dinolab.timing import seconds_of

QUERIES, CANDIDATES = 512, 8192  # rows that are compared to measure the pace
TRIED = 32  # images in the smaller of two timed embeddings; the larger one has three times as many
# Bytes of an image, measured with paths of about 65 letters: its row in a shard and in the decisions, and in the memory of the process
# that joins the parts of a stage
FACTS_ON_DISK, DECISION, FACTS = 100, 180, 920


class Paces(NamedTuple):
    """Seconds of one piece of work on this machine."""

    pair: float  # a row compared with another one, the largest similarities chosen
    centroid: float  # a row compared with a centroid
    row: float  # a row read and scaled


class Need(NamedTuple):
    """What a stage takes."""

    stage: str
    seconds: float  # of one process
    memory: float  # bytes, of one process
    disk: float  # bytes that stay
    scratch: float  # bytes that are removed when the stage is done


@quick_products()
def measure_paces(width: int, device: torch.device) -> Paces:
    """Measure the pace of each piece of work with rows of `width` random features."""
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.standard_normal((CANDIDATES, width), np.float32)).half()
    block = F.normalize(rows.to(device).float(), dim=1)
    queries = block[:QUERIES].clone()

    def fastest(work: Callable[[], object]) -> float:
        work()
        return min(seconds_of(work, device) for _ in range(3))

    pair = fastest(lambda: (queries @ block.T).topk(DedupOptions().neighbours)) / QUERIES / CANDIDATES
    centroid = fastest(lambda: assign(block, queries)) / QUERIES / CANDIDATES
    row = fastest(lambda: F.normalize(rows.clone().to(device).float(), dim=1)) / CANDIDATES
    return Paces(pair, centroid, row)


def measure_embedding(embedder: Embedder, source: Source) -> tuple[float, int]:
    """Seconds of an image, and the number of its features. Two samples are timed, so that the time to start does not count."""
    few, most = min(TRIED, len(source) // 4), min(4 * TRIED, len(source))
    times, width = [], 0
    for first, stop in ((0, few), (few, most)):
        began = time.perf_counter()
        width = max(width, embedder.embed(source, first, stop)[0].shape[1]) if stop > first else width
        times.append(time.perf_counter() - began)
    added = most - 2 * few  # images that the second sample has more
    return max(times[1] - times[0], times[1] * added / most / 2) / added, width


def forecast(images: int, width: int, curated: int, embedding: float | None, paces: Paces) -> list[Need]:
    """What each stage takes with its usual options.

    Args:
        images: N.
        width: D.
        curated: number of curated images; 0 leaves `retrieve` out.
        embedding: seconds to embed an image; None leaves `embed` out.
    """
    base, row = float(entry(STATUS, "VmRSS")) if STATUS.exists() else 0.0, 2 * width
    lists = 1 if images <= graph.EXACT else round(math.sqrt(images))
    blocks = base + 6 * min(images, SORTED) * row + 12 * SCORES
    joining = FACTS * images
    dedup, sample = DedupOptions(), SampleOptions(size=1)

    def lookup(queries: int, k: int) -> float:
        """Seconds of a search among the images."""
        probed = min(1.0, dedup.probes / lists)
        learned = ITERATIONS * min(images, SAMPLED * lists) * lists * paces.centroid
        sorting = (images + queries) * (lists * paces.centroid + paces.row)
        compared = queries * images * probed * paces.pair + images * min(lists, dedup.probes) * paces.row
        return (learned if lists > 1 else 0) + sorting + compared

    counts = choose_counts(images, sample)
    learned = min(images, sample.learned * counts[0])
    clustering = (sample.resamplings + 1) * counts[0] * paces.centroid * (learned * sample.iterations + images)
    clustering += (sample.resamplings + 1) * images * paces.row
    kept = images * (dedup.neighbours * 6 + DECISION)  # int32 and float16 for each neighbour
    needs = [
        Need("dedup", lookup(images, dedup.neighbours), blocks + joining, kept, images * (row + 8)),
        Need(
            "sample",
            clustering,
            blocks + learned * width * 4 + joining,
            images * (8.0 * (sample.resamplings + 1) + DECISION),
            0,
        ),
    ]
    if curated:
        needs.insert(
            1,
            Need(
                "retrieve", lookup(curated, 4), blocks + joining, 28.0 * curated + DECISION * images, images * (row + 8)
            ),
        )
    if embedding is not None:
        needs.insert(0, Need("embed", images * embedding, base + joining, images * (row + FACTS_ON_DISK + DECISION), 0))
    return needs


def plan_curation(
    images: int, width: int, curated: int, device: torch.device, embedder: Embedder | None, source: Source | None
) -> list[str]:
    """Measure and forecast; the lines of a table.

    Args:
        images: N.
        width: D, where there is no embedder.
        curated: number of curated images.
        embedder, source: how images are embedded, and some of them; without them, `embed` is not in the table.
    """
    embedding = None
    if embedder and source:
        embedding, width = measure_embedding(embedder, source)
    needs = forecast(images, width, curated, embedding, measure_paces(width, device))
    head = f"{images:,} images, {width} features each, {cores()} cores, search on {device.type}"
    lines = [head, f"{'stage':<10}{'time':>14}{'memory':>12}{'disk':>12}{'scratch':>12}"]
    for need in needs:
        sizes = "".join(f"{gigabytes(size):>12}" for size in need[2:])
        lines.append(f"{need.stage:<10}{duration(need.seconds):>14}{sizes}")
    about = "Time and memory are those of one process. Several share the time. Each needs the memory of embed; that of the other stages,"
    return [*lines, f"{about} only the first. With index=faiss a search takes more time and less disk (docs/scale.md)."]
