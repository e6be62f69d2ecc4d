"""Does `dinolab curate dedup` find copies, and nothing else? Plant copies of photos in a heap, and count what is found.

    python benchmarks/planted.py --photos DIR/har15_mini --frames DIR/eval_bits --work DIR [--images 20000] [--seed 0]
                                 [--size 128] [--out docs/results/planted.json]

The heap holds the training photos of Human Action Recognition, frames of films, changed copies of about half of the photos (4 or 5 of
each, of different kinds), and a tenth of the test photos, each once, as it is or changed. The same seed makes the same heap. --work
keeps it with its truth (truth.csv) and the embeddings, and the same command takes up where it stopped. With fewer --images, everything
is fewer in proportion.

Three ways to compare images are judged by the truth: perceptual hashes alone, and hashes with the embeddings of an untrained ViT or of
the starter encoder. Then thresholds are compared on one half of the photos with their copies, and on the other half. Of pairs that
were found but not planted, 30 are put on a sheet of pictures in --work, to be looked at. 20,000 images of 128 pixels take about 5
minutes of one core.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from heaps import COPIES, frames, save, small
from planted_scores import Truth, draw_sheet, score_copies, score_leaks

from dinolab.curation.dedup import dedup
from dinolab.curation.options import DedupOptions
from dinolab.data.decode import read_image
from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.features.store import open_store
from dinolab.files import write_whole
from dinolab.machine import environment

WHOLE = 20_000  # images of the heap of which the other numbers are parts
LEAKED = 0.1  # share of the test photos that are hidden in the heap
COPIED = 10 / 19  # share of the photos that have copies
SAME = "same bytes"
THRESHOLDS = (0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
AGAINST = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)
MOST = (20, 100, 1000)  # images of a group, at the usual threshold
NONE = 1.0  # a threshold above which no similarity lies, so that hashes decide alone


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--photos", type=Path, required=True)
    args.add_argument("--frames", type=Path, required=True)
    args.add_argument("--work", type=Path, required=True)
    args.add_argument("--images", type=int, default=WHOLE)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--size", type=int, default=128, help="side of the images that the starter embeds, in pixels")
    args.add_argument("--out", type=Path, default=Path("docs/results/planted.json"))
    options = args.parse_args()
    options.photos, options.work = options.photos.resolve(), options.work.resolve()
    truth, tests = make_heap(options)
    untrained = train_nothing(options)
    starter = embed(options, "starter", "starter", size=options.size)
    vit = embed(options, "untrained", str(untrained))
    ways = {
        "pHash alone": (vit, NONE, NONE),
        "untrained ViT": (vit, 0.6, 0.45),
        "starter": (starter, 0.6, 0.45),
    }
    found: dict[str, Any] = {
        "command": f"python benchmarks/planted.py --photos DIR/har15_mini --frames DIR/eval_bits --work DIR "
        f"--images {options.images} --seed {options.seed} --size {options.size}",
        "environment": environment(),
        "heap": truth.counts(),
        "ways": {name: judge(*way, truth, tests, options.work / name) for name, way in ways.items()},
        "thresholds": {t: score_copies(run(starter, threshold=t), truth, halves=True) for t in THRESHOLDS},
        "most": {most: score_copies(run(starter, most=most), truth, halves=True) for most in MOST},
        "thresholds_against": {
            t: score_leaks(run(starter, against=[str(tests)], threshold_against=t), truth, halves=True) for t in AGAINST
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(as_markdown(found))


def make_heap(options: argparse.Namespace) -> tuple[Truth, Path]:
    """Write the images that are not there yet, heap.txt with all of them, truth.csv, and tests.txt with the test photos."""
    share, made = options.images / WHOLE, options.work / "images"
    photos, tests = (
        shuffled(open_source(str(options.photos / name), option="--photos").paths, options.seed)
        for name in ("Training_set.csv", "Testing_set.csv")
    )
    photos, tests = photos[: round(share * len(photos))], tests[: round(share * len(tests))]
    rows = [{"file": path, "is": "photo", "of": path, "kind": ""} for path in photos]
    every = max(1, round(1 / share))
    for number, (clip, image) in enumerate(frames(options.frames)):
        if number % every == 0:
            file = made / f"frame_{number:04d}.jpg"
            if not file.is_file():
                save(file, small(image))
            rows.append({"file": str(file), "is": "frame", "of": clip, "kind": ""})
    kinds = [SAME, *COPIES]
    for number, path in enumerate(tests[: round(LEAKED * len(tests))]):
        rows.append(plant(path, kinds[number % len(kinds)], made / f"leak_{number:05d}", [options.seed, 1, number]))
        rows[-1]["is"] = "leak"
    missing = options.images - len(rows)
    copied = photos[: round(COPIED * len(photos))]
    for number, path in enumerate(copied):
        rng = np.random.default_rng([options.seed, 0, number])
        count = missing * (number + 1) // len(copied) - missing * number // len(copied)
        for kind in rng.permutation(len(kinds))[:count]:
            rows.append(plant(path, kinds[kind], made / f"copy_{number:05d}_{kind}", [options.seed, 2, number, kind]))
    write_whole(options.work / "heap.txt", "".join(f"{row['file']}\n" for row in rows).encode())
    write_whole(options.work / "tests.txt", "".join(f"{path}\n" for path in tests).encode())
    with (options.work / "truth.csv").open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return Truth(rows), options.work / "tests.txt"


def shuffled(paths: list[str], seed: int) -> list[str]:
    return [paths[i] for i in np.random.default_rng(seed).permutation(len(paths))]


def plant(path: str, kind: str, file: Path, seed: list[int]) -> dict[str, str]:
    """Write a copy of a photo, if it is not there, and say what it is."""
    file = file.with_suffix(".jpg")
    if not file.is_file() and kind == SAME:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, Path(path).read_bytes())
    elif not file.is_file():
        change, quality = COPIES[kind]
        save(file, np.ascontiguousarray(change(read_image(path), np.random.default_rng(seed))), quality)
    return {"file": str(file), "is": "copy", "of": path, "kind": kind}


def train_nothing(options: argparse.Namespace) -> Path:
    """The run of a network that has not learned anything: its learning rate is 0."""
    folder = options.work / "untrained_vit"
    if not (folder / "model.safetensors").is_file():
        words = ["optim.length=1 steps", "optim.lr=0", "optim.min_lr=0", "eval.every=0 steps", "run.pictures=false"]
        dinolab(["train", "small_10k", f"data.path={options.work / 'tests.txt'}", f"run.dir={folder}", *words])
    return folder


def embed(options: argparse.Namespace, name: str, encoder: str, size: int = 0) -> Path:
    words = [f"data={options.work / 'heap.txt'}", f"encoder={encoder}", *([f"size={size}"] if size else [])]
    dinolab(["curate", "embed", str(options.work / name), *words])
    return options.work / name


def dinolab(words: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "dinolab", *words], check=True)


def run(folder: Path, **changed: Any) -> Path:
    dedup(open_store(folder), DedupOptions(**changed))
    return folder


def judge(folder: Path, threshold: float, against: float, truth: Truth, tests: Path, sheet: Path) -> dict[str, Any]:
    """What is found with these thresholds: copies, and images of the test set. Two sheets of pictures show what was not planted."""
    found = {"threshold": threshold, "threshold_against": against}
    found["copies"] = score_copies(run(folder, threshold=threshold), truth)
    draw_sheet(folder, truth, sheet.with_name(f"{sheet.name} copies.png"))
    words = {"threshold": threshold, "threshold_against": against, "against": [str(tests)]}
    found["leaks"] = score_leaks(run(folder, **words), truth)
    draw_sheet(folder, truth, sheet.with_name(f"{sheet.name} leaks.png"), leaks=True)
    return found


def as_markdown(found: dict[str, Any]) -> str:
    """The tables of docs/results/curation.md."""
    ways = found["ways"]
    heads = f"| {' | '.join(ways)} |\n|---|{'---|' * len(ways)}"
    lines = [f"| copies found, % | number {heads.replace('|---|', '|---|---|', 1)}"]
    for kind, row in next(iter(ways.values()))["copies"]["kinds"].items():
        lines.append(f"| {kind} | {row['of']:,} | {cells(way['copies']['kinds'][kind] for way in ways.values())} |")
    for name in ("recall_of_pairs", "precision_of_pairs"):
        lines.append(f"| {name} | | {' | '.join(percent(way['copies'][name]) for way in ways.values())} |")
    for name in ("single_photographs", "single_photographs_in", "photographs", "photographs_lost", "frames_in", "kept"):
        lines.append(f"| {name} | | {' | '.join(format(way['copies'][name], ',') for way in ways.values())} |")
    lines += ["", f"| test photos found, % | number {heads.replace('|---|', '|---|---|', 1)}"]
    for kind, row in next(iter(ways.values()))["leaks"]["kinds"].items():
        lines.append(f"| {kind} | {row['of']} | {cells(way['leaks']['kinds'][kind] for way in ways.values())} |")
    lines.append(f"| all | | {cells(way['leaks'] for way in ways.values())} |")
    for name in ("photographs", "photographs_touched", "images_taken", "images_taken_that_are_leaks", "frames_taken"):
        lines.append(f"| {name} | | {' | '.join(format(way['leaks'][name], ',') for way in ways.values())} |")
    lines += [
        "",
        "| | half | recall of pairs | precision of pairs | photographs lost | in |",
        "|---|---|---|---|---|---|",
    ]
    named = [(f"{name} {value}", row) for name in ("thresholds", "most") for value, row in found[name].items()]
    for threshold, row in named:
        for half, part in enumerate(row["halves"]):
            figures = f"{percent(part['recall_of_pairs'])} | {percent(part['precision_of_pairs'])}"
            lost = f"{part['photographs_lost']:,} of {part['photographs']:,}"
            lines.append(f"| {threshold} | {'AB'[half]} | {figures} | {lost} | {part['in']:,} |")
    lines += ["", "| threshold_against | half | test photos found | photographs that go, too |", "|---|---|---|---|"]
    for threshold, row in found["thresholds_against"].items():
        for half, part in enumerate(row["halves"]):
            touched = f"{part['photographs_touched']:,} of {part['photographs']:,}"
            lines.append(f"| {threshold} | {'AB'[half]} | {part['found']} of {part['of']} | {touched} |")
    return "\n".join(lines)


def cells(rows: Any) -> str:
    return " | ".join(percent(row["found"] / max(row["of"], 1)) for row in rows)


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from error
