"""Does `dinolab curate sample` balance a heap in which some classes are frequent and others rare?

    python benchmarks/balanced.py --photos DIR/har15_mini --work DIR [--heaps 3] [--size 128] [--out docs/results/balanced.json]

Each heap holds photos of the 15 classes of Human Action Recognition, 100 times as many of the most frequent class as of the rarest, in
a geometric row; which class is frequent is drawn anew for each heap. Half of the images of a heap, and then a quarter, are drawn by
`curate sample` from embeddings of the starter encoder, and at random. Labels only serve to judge: the Kullback-Leibler divergence of
the classes' shares from equal shares, in nats, 0 where all classes are equally frequent. The least divergence that is possible is
above 0, because the rare classes do not have enough images. Three heaps take about a minute of one core.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from dinolab.curation.hierarchy import share
from dinolab.curation.options import SampleOptions
from dinolab.curation.sample import sample
from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.features.store import open_store
from dinolab.machine import environment

MOST, FEWEST = 380, 3.8  # images of the most frequent and of the rarest class
PARTS = (0.5, 0.25)  # of the heap that are drawn
DRAWS = 10  # at random, from each heap
WAYS = {"levels=3": {"levels": 3}, "levels=1": {"levels": 1}}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--photos", type=Path, required=True)
    args.add_argument("--work", type=Path, required=True)
    args.add_argument("--heaps", type=int, default=3)
    args.add_argument("--size", type=int, default=128, help="side of the images that are embedded, in pixels")
    args.add_argument("--out", type=Path, default=Path("docs/results/balanced.json"))
    options = args.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    photos = open_source(str((options.photos / "Training_set.csv").resolve()), need_labels=True, option="--photos")
    heaps = [measure(make_heap(photos, number, options), len(photos.classes)) for number in range(options.heaps)]
    found = {
        "command": f"python benchmarks/balanced.py --photos DIR/har15_mini --work DIR --heaps {options.heaps} "
        f"--size {options.size}",
        "environment": environment(),
        "heaps": heaps,
        "mean": {part: {way: mean_of(heaps, part, way) for way in heaps[0][part]} for part in map(name_of, PARTS)},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(as_markdown(found))


def make_heap(photos: Source, number: int, options: argparse.Namespace) -> Path:
    """Draw a heap and embed it; the folder of the curated set."""
    rng, out = np.random.default_rng(number), options.work / f"heap{number}"
    places = np.linspace(0, 1, len(photos.classes))[rng.permutation(len(photos.classes))]
    counts = np.rint(MOST * (FEWEST / MOST) ** places).astype(int)
    rows = np.concatenate(
        [rng.choice(np.flatnonzero(photos.labels == one), count, replace=False) for one, count in enumerate(counts)]
    )
    table = options.work / f"heap{number}.csv"
    with table.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["filename", "label"])
        writer.writerows((photos.paths[row], photos.classes[photos.labels[row]]) for row in np.sort(rows))
    words = [f"data={table}", "encoder=starter", f"size={options.size}", "label_column=label"]
    subprocess.run([sys.executable, "-m", "dinolab", "curate", "embed", str(out), *words], check=True)
    return out


def measure(folder: Path, classes: int) -> dict[str, Any]:
    """The divergence of the heap, and of parts of it that are drawn in each way."""
    store = open_store(folder)
    labels = np.unique(store.rows["label"], return_inverse=True)[1]
    counts = np.bincount(labels, minlength=classes)
    found: dict[str, Any] = {"images": len(labels), "counts": counts.tolist(), "before": divergence(counts)}
    for part in PARTS:
        size = round(part * len(labels))
        ways = {"at random": [judge(labels[draw_some(seed, len(labels), size)], classes) for seed in range(DRAWS)]}
        for way, changed in WAYS.items():
            sample(store, SampleOptions(size=size, **changed))
            names = set((folder / "in.txt").read_text().splitlines())
            inside = np.array([location in names for location in store.rows["location"]])
            ways[way] = [judge(labels[inside], classes)]
        even = share(counts, size, np.random.default_rng(0))
        ways["the most even"] = [judge(np.repeat(np.arange(classes), even), classes)]
        found[name_of(part)] = ways
    return found


def draw_some(seed: int, images: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(images, size, replace=False)


def judge(labels: np.ndarray, classes: int) -> dict[str, float]:
    """Figures of a part from the labels of its images, int (n,)."""
    counts = np.bincount(labels, minlength=classes)
    return {"divergence": divergence(counts), "most": int(counts.max()), "fewest": int(counts.min())}


def divergence(counts: np.ndarray) -> float:
    """Of the classes' shares from equal shares, in nats."""
    shares = counts[counts > 0] / counts.sum()
    return float((shares * np.log(shares * len(counts))).sum())


def name_of(part: float) -> str:
    return f"{part:.0%} of the images"


def mean_of(heaps: list[dict[str, Any]], part: str, way: str) -> dict[str, float]:
    """Means over the draws and the heaps, and the lowest and highest divergence of a heap."""
    rows = [row for heap in heaps for row in heap[part][way]]
    of_heaps = [fmean(row["divergence"] for row in heap[part][way]) for heap in heaps]
    means = {name: fmean(row[name] for row in rows) for name in ("divergence", "most", "fewest")}
    return {**means, "lowest": min(of_heaps), "highest": max(of_heaps)}


def as_markdown(found: dict[str, Any]) -> str:
    lines = ["| drawn | divergence | over the heaps | most frequent class | rarest class |", "|---|---|---|---|---|"]
    before = [heap["before"] for heap in found["heaps"]]
    counts = np.array([heap["counts"] for heap in found["heaps"]])
    most, fewest = counts.max(1).mean(), counts.min(1).mean()
    lines.append(
        f"| the heap | {fmean(before):.2f} | {min(before):.2f} to {max(before):.2f} | {most:.0f} | {fewest:.1f} |"
    )
    for part, ways in found["mean"].items():
        for way, row in ways.items():
            over = f"{row['lowest']:.2f} to {row['highest']:.2f}"
            counted = f"{row['most']:.0f} | {row['fewest']:.1f}"
            lines.append(f"| {part}, {way} | {row['divergence']:.2f} | {over} | {counted} |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from error
