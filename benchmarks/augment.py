"""Compare multi-crop on the CPU with DINOv2's published augmentation and with torchvision v2: speed, and how crops are distributed.

    python benchmarks/augment.py --photos DIR [--seconds 30] [--draws 3000] [--out docs/results/augment.json]

Speed is measured in images per core-second, with one process and one thread. The pipelines take turns image by image, so that a clock
that drifts affects all of them alike. dinolab's pipeline and torchvision v2's, which works on tensors, end in uint8 crops, since these
are normalised on the device. The published one works on Pillow images and ends in normalised floats. Both of torchvision's decode with
Pillow.

Then the script compares the distributions of crops, and measures each known deviation by itself, with the same parameters for both.
It takes less than five minutes on one core, and needs torchvision.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from dinolab.data import draws, samples
from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.sources import open_source, subset
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.machine import environment
from dinolab.options import Config
from dinolab.pixels import RGB
from dinolab.recipes import load_config

try:
    import torchvision
    from torchvision import transforms as v1
    from torchvision.transforms import v2
except ImportError as error:
    raise SystemExit("benchmarks/augment.py compares with torchvision: pip install torchvision") from error

from likeness import blank, compare_crops, compare_draws, deviations, torchvisions

RECIPE = "dinov2_vits16"  # 2 x 224 and 8 x 96 px, all as published
SETS = {  # number of photos, goal for the speed over the published pipeline's, share of the draws whose crops are compared
    "as they are": (200, 6, 0.45),
    "500 x 375": (32, 6, 0.45),
    "4000 x 3000": (6, 12, 0.1),
}
NOISE = 4.0  # levels of 255, added to the enlarged photos, which makes their files as large as a camera's
QUALITY = 90
ROUND = 4  # images in a round
PARTS = {"read": ("read_file", "jpeg_size"), "draws": ("draw_crops",), "decode": ("decode",), "views": ("make_views",)}
console = Console(width=None if sys.stdout.isatty() else 120)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--photos", required=True, help="a folder of photos, or a CSV or text file that lists them")
    args.add_argument(
        "--seconds", type=float, default=30, help="core-seconds of timing for each of three sets of photos"
    )
    args.add_argument("--draws", type=int, default=3000)
    args.add_argument("--out", type=Path, default=Path("docs/results/augment.json"))
    options = args.parse_args()
    if options.draws < 100:
        args.error("--draws: 100 or more, else there is nothing to compare")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cfg = load_config(RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        sets = make_sets(options.photos, Path(folder))
        found = {
            "sets": {name: describe(source) for name, source in sets.items()},
            "speed": {name: speed(source, cfg, options.seconds, SETS[name][1]) for name, source in sets.items()},
            "draws": compare_draws(cfg.views, options.draws),
            "crops": {
                name: compare_crops(source, cfg.views, round(options.draws * SETS[name][2]))
                for name, source in sets.items()
            },
            "deviations": deviations(sets["as they are"], cfg.views),
        }
    show(found)
    command = f"python benchmarks/augment.py --photos DIR --seconds {options.seconds:g} --draws {options.draws}"
    versions = environment()
    versions["packages"]["torchvision"] = torchvision.__version__
    options.out.write_text(json.dumps({"command": command, "environment": versions, **found}, indent=2) + "\n")


def make_sets(photos: str, folder: Path) -> dict[str, Source]:
    """Return the photos as they are, and two sets made from them: resized, with noise as from a camera, saved as JPEG."""
    source = open_source(photos, option="--photos")
    rng = np.random.default_rng(0)
    sets = {}
    for name, (number, _, _) in SETS.items():
        sets[name] = subset(source, number, 0)
        if name == "as they are":
            continue
        width, height = map(int, name.split(" x "))
        paths = [str(folder / f"{width}_{n}.jpg") for n in range(len(sets[name]))]
        for path, original in zip(paths, sets[name].paths):
            image = cv2.resize(read_image(original), (width, height), interpolation=cv2.INTER_CUBIC)
            noise = NOISE * rng.standard_normal((height, width, 1), np.float32)
            noisy = (image + noise).round().clip(0, 255).astype(np.uint8)
            cv2.imwrite(path, noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        sets[name] = Source(name, paths, None, [])
    return sets


def describe(source: Source) -> dict[str, Any]:
    sizes = [Path(path).stat().st_size / 1000 for path in source.paths]
    shapes = [read_image(path).shape[:2] for path in source.paths]
    return {
        "photos": len(source),
        "median_pixels": [int(x) for x in np.median(shapes, axis=0)[::-1]],
        "kilobytes": {"least": min(sizes), "median": float(np.median(sizes)), "most": max(sizes)},
    }


def speed(source: Source, cfg: Config, seconds: float, goal: float) -> dict[str, Any]:
    """Measure images per core-second of the three pipelines, their ratios round by round, and the time of dinolab's parts."""
    published = torchvisions(v1, cfg.views, [v1.ToTensor(), v1.Normalize(RGB.mean, RGB.deviation)])
    on_tensors = torchvisions(v2, cfg.views, [])
    dataset, numbers = samples.MicroBatches(source, cfg), count()

    def ours(index: int) -> None:
        rng = draws.rng(cfg.seed, draws.SAMPLE, next(numbers))
        _, image, crops = dataset.read(index, rng, [])
        samples.make_views(image, crops, blank(cfg.views))

    def theirs(index: int) -> None:
        image = Image.open(io.BytesIO(Path(source.paths[index]).read_bytes())).convert("RGB")
        [view(image) for view in published]

    def theirs_on_tensors(index: int) -> None:
        image = Image.open(io.BytesIO(Path(source.paths[index]).read_bytes())).convert("RGB")
        tensor = v2.functional.pil_to_tensor(image)
        [view(tensor) for view in on_tensors]

    pipelines = {"dinolab": ours, "published": theirs, "torchvision v2": theirs_on_tensors}
    for run in pipelines.values():
        run(0)  # the first image of each is not timed
    rounds: list[dict[str, float]] = []
    with timed_parts() as parts:
        while len(rounds) < 3 or sum(sum(r.values()) for r in rounds) < seconds:
            spent = dict.fromkeys(pipelines, 0.0)
            for n in range(ROUND):
                for name, run in pipelines.items():
                    began = time.process_time()
                    run((len(rounds) * ROUND + n) % len(source))
                    spent[name] += time.process_time() - began
            rounds.append(spent)
    times = {name: np.array([r[name] for r in rounds]) for name in pipelines}
    ratios = {name: times[name] / times["dinolab"] for name in ("published", "torchvision v2")}
    return {
        "rounds": len(rounds),
        "images_per_core_second": {name: float(np.median(ROUND / t)) for name, t in times.items()},
        "ratio": {name: spread(r) for name, r in ratios.items()},
        "goal": goal,
        "parts_ms": {name: 1000 * t / (ROUND * len(rounds)) for name, t in parts.items()},
    }


@contextmanager
def timed_parts() -> Iterator[dict[str, float]]:
    """While the block runs, add up the core-seconds of each of the loader's parts."""
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(part: str, run: Callable) -> Callable:
        def timed_run(*args: Any) -> Any:
            began = time.process_time()
            result = run(*args)
            spent[part] += time.process_time() - began
            return result

        return timed_run

    with ExitStack() as stack:
        for part, names in PARTS.items():
            for name in names:
                stack.enter_context(mock.patch.object(samples, name, timed(part, getattr(samples, name))))
        yield spent


def spread(x: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(x)), "low": float(np.quantile(x, 0.1)), "high": float(np.quantile(x, 0.9))}


def show(found: dict[str, Any]) -> None:
    speed = found["speed"]
    table("Sets", ("", "photos", "pixels", "KB, median", "least", "most"), [
        (name, s["photos"], "{} x {}".format(*s["median_pixels"]), *(s["kilobytes"][k] for k in ("median", "least", "most")))
        for name, s in found["sets"].items()
    ])  # fmt: skip
    table("Images per core-second", ("", "rounds", *speed["as they are"]["images_per_core_second"]), [
        (name, s["rounds"], *s["images_per_core_second"].values()) for name, s in speed.items()
    ])  # fmt: skip
    table("Times as fast as", ("", "than", "median", "10 %", "90 %", "goal"), [
        (name, rival, *r.values(), s["goal"] if rival == "published" else "")
        for name, s in speed.items() for rival, r in s["ratio"].items()
    ])  # fmt: skip
    table("dinolab's parts, ms an image", ("", *PARTS), [(name, *s["parts_ms"].values()) for name, s in speed.items()])
    columns = ("", "ours", "theirs", "difference", "standard error", "KS", "p")
    table("What is drawn", columns, [(name, *row.values()) for name, row in found["draws"]["rows"].items()])
    table("Shares", ("", "observed", "set"), [(name, *row.values()) for name, row in found["draws"]["shares"].items()])
    sets = list(found["crops"])
    for kind, rows in found["crops"][sets[0]].items():
        table(f"Finished crops: {kind}; ours - theirs = difference ± standard error", ("", *sets), [
            (key, *(difference(found["crops"][name][kind][key]) for name in sets)) for key in rows
        ])  # fmt: skip
    table("Same parameters: difference in levels of 255", ("", "mean", "99th percentile", "ours - theirs", "sharpness, ours / theirs"), [
        (name, *row.values()) for name, row in found["deviations"].items()
    ])  # fmt: skip


def difference(row: dict[str, float]) -> str:
    return f"{row['ours']:.4g} - {row['theirs']:.4g} = {row['difference']:.2g} ± {row['standard_error']:.1g}"


def table(title: str, columns: tuple[str, ...], rows: list[tuple]) -> None:
    made = Table(title=title, title_justify="left")
    for n, column in enumerate(columns):
        made.add_column(column, justify="right" if n else "left", no_wrap=n == 0)
    for row in rows:
        made.add_row(*(f"{x:.4g}" if isinstance(x, float) else str(x) for x in row))
    console.print(made)


if __name__ == "__main__":
    try:
        main()
    except (UserError, BrokenImage) as error:
        raise SystemExit(str(error)) from error
