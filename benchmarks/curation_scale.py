"""Seconds, memory and recall of the stages of curation on synthetic embeddings, and how they grow with the number of images.

    python benchmarks/curation_scale.py --folder SCRATCH --images 100000 [--out docs/results/curation_scale.json]
    python benchmarks/curation_scale.py --plot docs/results/curation_scale.png

Each stage runs in a process of its own, whose peak of resident memory is noted (with pages of files that it has mapped). A second call
with another number of images adds to the file. The scratch folder takes 3 times the embeddings; what is in it is made again for each
number of images, and removed at the end.

The vectors lie around random centres, by default as many as the square root of their number. Their cosine similarity to others around
the same centre is about 0.45. A fiftieth of them are copies of others with a little noise, with a similarity of about 0.98.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ticker import NullFormatter

from dinolab.curation.components import components
from dinolab.curation.graph import build
from dinolab.curation.hierarchy import Clustering, build_tree, cluster, sample_tree
from dinolab.curation.lists import How
from dinolab.curation.parts import Parts
from dinolab.data.sources.curated import MANIFEST
from dinolab.features.store import Embeddings, Shard, Store, write_manifest
from dinolab.files import write_whole
from dinolab.machine import environment
from dinolab.parallel import choose_device
from dinolab.plotting import COLOURS, MARKERS, new_figure, open_frame, save

WIDTH, SHARD, MADE = 384, 4096, 1 << 16  # features; rows of a shard; rows that are made at once
SPREAD, CHANGED = 1.1, 0.2  # noise around a centre and of a copy, relative to the centre's length
COPIES = 50  # one copy in so many rows
THRESHOLD, MOST = 0.8, 1000
STAGES = {
    "make": "embeddings are written", "graph": "graph of neighbours", "faiss": "graph of neighbours, index=faiss",
    "components": "connected components", "kmeans": "k-means", "sampling": "hierarchical sampling",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="scratch folder, which is emptied")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--centres", type=int, help="around which the vectors lie; default: sqrt(images)")
    parser.add_argument("--neighbours", type=int, default=16)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument(
        "--clusters", type=int, nargs="+", default=[], help="of each level; default: sqrt(images), a tenth, and so on"
    )
    parser.add_argument("--iterations", type=int, default=10, help="of k-means")
    parser.add_argument("--learned", type=int, default=64, help="rows for each centroid from which it is learned")
    parser.add_argument("--resamplings", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/curation_scale.json"))
    parser.add_argument(
        "--device", default="cpu", help="for the graph of neighbours; auto takes a GPU where there is one"
    )
    parser.add_argument("--plot", type=Path, help="draw the results in --out instead of measuring")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=list(STAGES), help="to go on where a call was stopped"
    )
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    if args.plot:
        return plot(json.loads(args.out.read_text()), args.plot)
    if args.folder is None:
        parser.error("--folder is missing")
    first = round(args.images**0.5)
    args.centres = args.centres or first
    args.clusters = args.clusters or [first, first // 10, max(2, first // 100)]
    if args.stage:
        return print(json.dumps(measured(args)))
    if "make" in args.stages:
        shutil.rmtree(args.folder, ignore_errors=True)
    for stage in args.stages:
        done = subprocess.run(
            [sys.executable, *sys.argv, "--stage", stage], stdout=subprocess.PIPE, text=True, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        print(stage, found, flush=True)
        note(args, stage, found)
    shutil.rmtree(args.folder)


def note(args: argparse.Namespace, stage: str, found: dict[str, Any]) -> None:
    """Add the figures of a stage to the file of results."""
    options = ("centres", "neighbours", "probes", "clusters", "iterations", "learned", "resamplings", "device")
    content = json.loads(args.out.read_text()) if args.out.is_file() else {"runs": {}}
    content["command"] = "python benchmarks/curation_scale.py --folder SCRATCH --images N"
    run = {"options": {name: getattr(args, name) for name in options}, "threads": torch.get_num_threads()}
    before = content["runs"].get(str(args.images), {}).get("stages", {})
    content["runs"][str(args.images)] = {**run, "environment": environment(), "stages": {**before, stage: found}}
    content["runs"] = dict(sorted(content["runs"].items(), key=lambda item: int(item[0])))
    write_whole(args.out, (json.dumps(content, indent=2) + "\n").encode())


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Do a stage; what it took and found."""
    began, cpu = time.perf_counter(), time.process_time()
    work: Callable[[argparse.Namespace], dict[str, Any]] = globals()[f"do_{args.stage}"]
    found = work(args)
    seconds = time.perf_counter() - began
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    took = {"seconds": round(seconds, 1), "cpu_seconds": round(time.process_time() - cpu, 1), "peak_mb": round(peak)}
    return {
        **took,
        "disk_mb": round(sum(f.stat().st_size for f in args.folder.rglob("*") if f.is_file()) / 1e6),
        **found,
    }


def do_make(args: argparse.Namespace) -> dict[str, Any]:
    (args.folder / "shards").mkdir(parents=True)
    rng = np.random.default_rng(0)
    centres = F.normalize(torch.from_numpy(rng.standard_normal((args.centres, WIDTH), np.float32)), dim=1)
    for start in range(0, args.images, MADE):
        count = min(MADE, args.images - start)
        noise = torch.from_numpy(rng.standard_normal((count, WIDTH), np.float32)) / WIDTH**0.5
        of = torch.from_numpy(rng.integers(len(centres), size=count))
        rows = centres[of] + SPREAD * noise
        copies, originals = planted(count)
        rows[copies] = rows[originals] + CHANGED * noise[copies]
        rows *= torch.from_numpy(rng.uniform(5, 15, (count, 1)).astype(np.float32))  # embeddings are not of length 1
        for at in range(0, count, SHARD):
            write_shard(args.folder, start + at, rows[at : at + SHARD].half().numpy())
    write_manifest(args.folder / MANIFEST, {"width": WIDTH, "images": args.images, "sources": ["synthetic"]})
    return {}


def planted(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a block that are copies, and those of which they are."""
    copies = np.arange(COPIES - 1, count, COPIES)
    return copies, copies - COPIES // 2


def write_shard(folder: Path, start: int, vectors: np.ndarray) -> None:
    count = len(vectors)
    numbers = np.arange(start, start + count)
    facts: dict[str, Any] = {name: [""] * count for name in ("label", "stamp", "problem")}
    facts |= {name: np.zeros(count, int) for name in ("date", "height", "width", "bytes")}
    facts |= {"location": [f"{number:09d}.jpg" for number in numbers], "source": ["synthetic"] * count}
    facts |= {"digest": [number.tobytes() for number in numbers], "hash": numbers.astype(np.uint64)}
    Shard(folder / "shards" / f"{start // SHARD:06d}.parquet").write(vectors, facts)


def open_rows(args: argparse.Namespace, is_unit: bool) -> Embeddings:
    store = Store(args.folder)
    unit = (lambda block: F.normalize(block.float(), dim=1)) if is_unit else None
    return Embeddings((store, np.arange(args.images)), change=unit)


def do_graph(args: argparse.Namespace) -> dict[str, Any]:
    return search(args, "lists")


def do_faiss(args: argparse.Namespace) -> dict[str, Any]:
    return search(args, "faiss")


def search(args: argparse.Namespace, index: str) -> dict[str, Any]:
    """The graph of neighbours."""
    folder = args.folder / "work" / ("graph" if index == "lists" else index)
    rng, rows = np.random.default_rng(1), open_rows(args, False)
    device = choose_device(args.device, "--device")
    graph = build(rows, None, args.neighbours, rng, Parts(folder), How(device, args.probes, index))
    return {"recall": round(graph.recall, 4), "parts": len(graph.parts)}


def do_components(args: argparse.Namespace) -> dict[str, Any]:
    graph = build(
        open_rows(args, False), None, args.neighbours, np.random.default_rng(1), Parts(args.folder / "work" / "graph")
    )
    groups = components(graph, THRESHOLD, MOST).group
    pairs = [np.stack(planted(min(MADE, args.images - start))) + start for start in range(0, args.images, MADE)]
    copies, originals = np.concatenate(pairs, 1)
    joined = len(groups) - len(np.unique(groups))  # images that would go
    found = int((groups[copies] == groups[originals]).sum())
    return {"threshold": THRESHOLD, "planted": len(copies), "found": found, "joined": joined}


def do_kmeans(args: argparse.Namespace) -> dict[str, Any]:
    parts, (child,) = Parts(args.folder / "work" / "sample"), np.random.default_rng(2).spawn(1)
    once = Clustering(0, args.iterations, args.learned)
    level = cluster(open_rows(args, True), args.clusters[0], child, parts, once)
    assert level.squares is not None
    return {"clusters": args.clusters[0], "mean_squared_distance": round(float(level.squares.mean()), 4)}


def do_sampling(args: argparse.Namespace) -> dict[str, Any]:
    """What follows the first k-means, whose files are there: resamplings, the higher levels, and the draw of a tenth."""
    parts, (child,) = Parts(args.folder / "work" / "sample"), np.random.default_rng(2).spawn(1)
    above = [args.images, *args.clusters]
    closest = [max(1, round(whole / count / 2)) for whole, count in zip(above, args.clusters)]
    rows = open_rows(args, True)
    how = Clustering(args.resamplings, args.iterations, args.learned)
    levels = build_tree(rows, args.clusters, closest, child, how, parts)
    drawn = sample_tree(levels, args.images // 10, np.random.default_rng(3))
    return {"clusters": args.clusters, "drawn": len(np.unique(drawn))}


def plot(content: dict[str, Any], out: Path) -> None:
    """Draw seconds of CPU and memory against the number of images."""
    drawn = {stage: name for stage, name in STAGES.items() if stage not in ("make", "faiss")}
    runs = {int(count): run["stages"] for count, run in content["runs"].items() if set(drawn) <= set(run["stages"])}
    figure = new_figure(9, 4)
    panels = figure.subplots(1, 2)
    for axes, key, title, factor in zip(
        panels, ("cpu_seconds", "peak_mb"), ("CPU time, s", "Peak memory, GB"), (1, 1e-3)
    ):
        for number, (stage, name) in enumerate(drawn.items()):
            values = [run[stage][key] * factor for run in runs.values()]
            axes.plot(list(runs), values, marker=MARKERS[number], color=COLOURS[number], label=name)
        axes.set(xscale="log", title=title, xlabel="Images")
        axes.set_xticks(list(runs), [f"{count:,}" for count in runs])
        axes.xaxis.set_minor_formatter(NullFormatter())
        open_frame(axes)
    panels[0].set_yscale("log")
    panels[1].set_ylim(0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    save(figure, out)


if __name__ == "__main__":
    main()
