"""Does curation help? Train on a heap, on a random part of it, and on a curated part of the same size, and compare the features.

    python benchmarks/curation_helps.py --photos DIR/har15_mini --frames DIR/eval_bits --work DIR [--steps 500] [--seeds 3]
                                        [--curated 500] [--per-image 16] [--size 128]
                                        [--out docs/results/curation_helps.json]

The heap holds the training photos of Human Action Recognition, and about twice as many pictures that are nothing like them: scenes and
frames of films with windows of these, many of them near-copies, and the demo's scenes with digits. `dinolab curate` makes the curated
set from it, with a sample of the photos as curated images and the test photos to stay away from. A recipe is then trained for
the same number of steps on each, and the k-NN and logistic regression of all features are made with all training photos and tested on
the test photos. Two more rows are bounds: the photos alone, and the network before training.

--work keeps the heap and the runs: the same command takes up where it stopped. --prepare ends before the trainings. On one core, the
heap and the curated set take about 4 minutes, and each of the 12 trainings of 500 steps about 3 more.
"""

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from heaps import frames, save, small, windows

from dinolab.curation.options import DedupOptions
from dinolab.data.digits import make_scenes
from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.files import write_whole
from dinolab.grid import run_grid
from dinolab.grid.findings import Found, collect, compare, read_right
from dinolab.grid.read import read_grid
from dinolab.grid.task import make_tasks
from dinolab.machine import environment

EVALUATIONS = ("knn", "logreg")
SIZE = 160  # pixels of the images that features are compared on, as in docs/results/har_ways.md
RANDOM, HEAP, CURATED = "random part", "the whole heap", "curated part"
PHOTOS, UNTRAINED = "the photos alone", "before training"


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--photos", type=Path, required=True)
    args.add_argument("--frames", type=Path, required=True)
    args.add_argument("--work", type=Path, required=True)
    args.add_argument("--steps", type=int, default=500)
    args.add_argument("--seeds", type=int, default=3)
    args.add_argument("--recipe", default="small_10k")
    args.add_argument("--curated", type=int, default=500)
    args.add_argument("--per-image", type=int, default=16)
    args.add_argument("--size", type=int, default=128, help="pixels of the images that the curation embeds")
    args.add_argument("--prepare", action="store_true", help="make the heap and the curated set only")
    args.add_argument("--out", type=Path, default=Path("docs/results/curation_helps.json"))
    options = args.parse_args()
    options.photos, options.work = options.photos.resolve(), options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    lists = make_heap(options)
    lists[CURATED], facts = curate(lists, options)
    lists[RANDOM] = write_list(
        options.work / "random.txt", random.Random(1).sample(read_list(lists[HEAP]), facts["images"][CURATED])
    )
    facts["images"] = {name: len(read_list(file)) for name, file in lists.items()}
    facts["made_of"] = {name: dict(Counter(map(kind, read_list(file)))) for name, file in lists.items()}
    print(json.dumps(facts, indent=2), flush=True)
    if not options.prepare:
        train_all(lists, facts, options)


def make_heap(options: argparse.Namespace) -> dict[str, Path]:
    """Write the pictures that are no photos, and lists of what is to be trained on."""
    photos = open_source(str(options.photos / "Training_set.csv"), option="--photos").paths
    frames_folder = options.work / "frames"
    if not (frames_folder / "done").is_file():
        for number, (clip, image) in enumerate(frames(options.frames)):
            for part, picture in enumerate([small(image), *windows(image)]):
                save(frames_folder / f"{clip.replace('/', '_')}_{number:04d}_{part}.jpg", picture)
        write_whole(frames_folder / "done", b"")
    scenes = make_scenes(options.work / "scenes")
    others = [*sorted(frames_folder.glob("*.jpg")), *sorted(scenes.glob("t*/*/*.png"))]
    return {
        HEAP: write_list(options.work / "heap.txt", [*photos, *map(str, others)]),
        PHOTOS: write_list(options.work / "photos.txt", photos),
    }


def curate(lists: dict[str, Path], options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Curate the heap; a list of what is in, and what each stage did."""
    wanted = random.Random(0).sample(read_list(lists[PHOTOS]), options.curated)
    sample, out = write_list(options.work / "wanted.txt", wanted), options.work / "set"
    test = options.photos / "Testing_labels.csv"
    stages = {
        "embed": [f"data={lists[HEAP]}", "encoder=starter", f"size={options.size}"],
        "dedup": [f"against=[{test}]"],
        "retrieve": [f"curated={sample}", f"per_image={options.per_image}"],
    }
    for stage, words in stages.items():
        if not (out / f"{stage}.json").is_file():  # embedding takes up by itself where it stopped
            subprocess.run([sys.executable, "-m", "dinolab", "curate", stage, str(out), *words], check=True)
    done = {stage: json.loads((out / f"{stage}.json").read_text())["figures"] for stage in ("dedup", "retrieve")}
    chosen = (out / "in.txt").read_text().splitlines()
    facts = {
        "curated": options.curated,
        "per_image": options.per_image,
        "size": options.size,
        "threshold": DedupOptions.threshold,
        "threshold_against": DedupOptions.threshold_against,
        "figures": done,
        "images": {CURATED: len(chosen)},
    }
    return write_list(options.work / "curated.txt", chosen), facts


def kind(path: str) -> str:
    """What a picture of the heap is."""
    return {"frames": "frames and windows of frames", "train": "photos"}.get(Path(path).parent.name, "scenes of digits")


def train_all(lists: dict[str, Path], facts: dict[str, Any], options: argparse.Namespace) -> None:
    """Train and evaluate every row with every seed, and write what came out."""
    length = f"optim.length={options.steps} steps"
    rows = {name: [f"data.path={lists[name]}", length] for name in (RANDOM, HEAP, CURATED, PHOTOS)}
    rows[UNTRAINED] = [f"data.path={lists[PHOTOS]}", "optim.length=1 steps", "optim.lr=0", "optim.min_lr=0"]
    content = {
        "title": "Does curation help?",
        "base": options.recipe,
        "words": ["eval.every=0 steps", f"eval.size={SIZE}", "run.pictures=false"],
        "evaluations": list(EVALUATIONS),
        "rows": rows,
    }
    file, out = options.work / "helps.yaml", options.work / "runs"
    write_whole(file, yaml.safe_dump(content, sort_keys=False).encode())
    words = [
        f"eval.train={options.photos / 'Training_set.csv'}",
        f"eval.test={options.photos / 'Testing_labels.csv'}",
    ]
    run_grid(str(file), words, seeds=options.seeds, out=out, plan="no")
    grid = read_grid(str(file))
    tasks = make_tasks(grid, words, "", options.seeds, out)
    table = {}
    for one in collect(grid, tasks):
        costs = {"steps": one.steps, "cpu_seconds": one.cpu_seconds, "remarks": one.remarks}
        table[one.row.name] = {**{name: asdict(found) for name, found in one.results.items()}, **costs}
    for name in EVALUATIONS:
        right = {
            row: {task.seed: read_right(task, name) for task in tasks if task.row.name == row and task.is_done()}
            for row in (HEAP, CURATED)
        }
        found = compare(right[CURATED], right[HEAP])
        table[CURATED][name]["to_heap"] = {"difference": found.difference, "interval": found.difference_interval}
    command = "python benchmarks/curation_helps.py --photos DIR/har15_mini --frames DIR/eval_bits --work DIR"
    command += f" --steps {options.steps} --seeds {options.seeds} --recipe {options.recipe}"
    command += f" --curated {options.curated} --per-image {options.per_image} --size {options.size}"
    found_all = {"command": command, "environment": environment(), "set": facts, "rows": table}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found_all, indent=2) + "\n")
    print(as_markdown(table))


def as_markdown(table: dict[str, Any]) -> str:
    """The figures of each row, with the differences to the random part."""
    heads = ["k-NN, %", "to the random part", "logistic regression, %", "to the random part"]
    lines = [f"| trained on | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name, row in table.items():
        cells = [cell for one in EVALUATIONS for cell in figures(Found(**without_heap(row[one])))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for one in EVALUATIONS:
        found = table[CURATED][one]["to_heap"]
        lines.append(f"{one}, {CURATED} against {HEAP}: {signed(found['difference'], found['interval'])} points")
    return "\n".join(lines)


def without_heap(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "to_heap"}


def figures(found: Found) -> tuple[str, str]:
    """An accuracy and its difference to the first row, with 95 % intervals over test images and the deviation over seeds."""
    if found.mean is None or found.interval is None:
        return "-", "-"
    low, high = found.interval
    own = f"{found.mean:.1%} ({low:.1%} to {high:.1%})".replace("%", "") + (f" ± {found.std:.1%}" if found.std else "")
    return own.replace("%", ""), signed(found.difference, found.difference_interval)


def signed(difference: float | None, interval: tuple[float, float] | None) -> str:
    if difference is None or interval is None:
        return "-"
    return f"{100 * difference:+.1f} ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})"


def read_list(file: Path) -> list[str]:
    return file.read_text().splitlines()


def write_list(file: Path, paths: list[str]) -> Path:
    write_whole(file, "".join(f"{path}\n" for path in paths).encode())
    return file


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from error
