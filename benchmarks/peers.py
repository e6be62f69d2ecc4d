"""Measure dinolab beside other projects on a CPU: time and memory of a DINOv2 step, and accuracy after equal CPU time.

    python benchmarks/peers.py --photos DIR                 # the step: LightlyTrain, lightly, stable-pretraining; 10 minutes
    python benchmarks/peers.py --quality DIR --minutes 10   # accuracy: LightlyTrain; about 7 minutes for each of 6 trainings

Each other project gets a virtual environment below --environments, made with pip the first time (5 GB each). Each command writes
its part of peers.json, and then the whole page peers.md from it. --quality keeps the rows that it finds there with the same options,
so that a command that was stopped goes on where it was; --again measures them anew. docs/results/peers.md says what is measured.
"""

import argparse
import json
import shlex
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peering import quality
from peering.environments import REQUIREMENTS, cache_folder, python_of
from peering.page import page
from peering.rounds import Failed, Process, measure

from dinolab.errors import UserError
from dinolab.files import write_whole
from dinolab.machine import environment
from dinolab.precision import cpu_is_fast_in_bf16

SCRIPTS = Path(__file__).parent / "peering"
PROJECTS = ["dinolab", *REQUIREMENTS]


def read_options() -> argparse.Namespace:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--photos", type=Path, metavar="DIR", help="measure steps on the image files below this folder")
    args.add_argument(
        "--quality", type=Path, metavar="DIR", help="measure accuracy on train and test photos with labels"
    )
    args.add_argument("--environments", type=Path, default=cache_folder(), metavar="DIR", help="default: %(default)s")
    args.add_argument("--only", default="", help="projects, or with --quality rows, separated by commas (default: all)")
    args.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of peers.json and peers.md")
    step = args.add_argument_group("the step")
    for name, default in (("batch", 8), ("global-size", 224), ("local-size", 98), ("locals", 8), ("prototypes", 65536)):
        step.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    step.add_argument("--drop-path", type=float, default=0.3, help="stochastic depth; default: %(default)s")
    step.add_argument("--precision", default="auto", help="fp32, bf16 or fp32,bf16; auto leaves out a slow bf16")
    step.add_argument("--rounds", type=int, default=5, help="measured steps of each; default: %(default)s")
    step.add_argument("--warm-up", type=int, default=2, help="steps before them; default: %(default)s")
    accuracy = args.add_argument_group("accuracy")
    accuracy.add_argument(
        "--minutes", type=float, default=10, help="CPU-minutes of each training; default: %(default)s"
    )
    accuracy.add_argument("--seed", type=int, default=0)
    accuracy.add_argument("--images", type=int, default=0, help="train and test images that are judged (0: all)")
    accuracy.add_argument("--again", action="store_true", help="measure rows anew that are in peers.json")
    options = args.parse_args()
    if (options.photos is None) == (options.quality is None):
        args.error("name either --photos DIR or --quality DIR")
    return options


def choose(only: str, known: list[str]) -> list[str]:
    """Return the names of --only, dinolab's first; all without it."""
    chosen = [name.strip() for name in only.split(",") if name.strip()] if only else known
    if unknown := set(chosen) - set(known):
        raise UserError(f"--only {', '.join(sorted(unknown))}: there is no such row; choose from {'; '.join(known)}")
    return sorted(chosen, key=known.index)


def pythons_of(projects: list[str], folder: Path) -> dict[str, Path | str]:
    """Return the Python of each project, or why it has none."""
    found: dict[str, Path | str] = {}
    for name in projects:
        try:
            found[name] = python_of(name, folder.expanduser().resolve())
        except UserError as error:
            found[name] = str(error)
    return found


def start(python: Path | str, name: str, case: dict[str, Any], work: Path) -> Process:
    if isinstance(python, str):
        raise Failed(python)
    return Process([python, SCRIPTS / f"{name.replace('-', '_')}_step.py"], case, work / f"{name}.log")


def measure_steps(options: argparse.Namespace) -> dict[str, Any]:
    if not options.photos.is_dir():
        raise UserError(f"--photos {options.photos}: there is no such folder; name one with image files")
    keys = ("batch", "global_size", "local_size", "locals", "prototypes", "drop_path", "rounds", "warm_up")
    case = {key: getattr(options, key) for key in keys}
    pythons = pythons_of(choose(options.only, PROJECTS), options.environments)
    automatic = ["fp32", *["bf16"] * cpu_is_fast_in_bf16()]
    precisions = automatic if options.precision == "auto" else options.precision.split(",")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in precisions:
            work = Path(folder) / precision
            work.mkdir()
            own = case | {"photos": str(options.photos.resolve()), "precision": precision, "folder": str(work)}
            starts = {name: partial(start, python, name, own, work) for name, python in pythons.items()}
            rows[precision] = measure(starts, options.warm_up, options.rounds)
    return {"case": case, "rows": rows}


def measure_quality(options: argparse.Namespace, before: dict[str, Any], save: Any) -> None:
    """Measure the rows that `before` lacks, and save after each."""
    chosen = choose(options.only, [*quality.ROWS, quality.UNTRAINED])
    projects = [name for name in PROJECTS if any(name == quality.ROWS.get(row, ("dinolab",))[0] for row in chosen)]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = quality.Labelled(options.quality, work, options.images)
        train, test = map(len, data.labels)
        case = {"minutes": options.minutes, "seed": options.seed, "train": train, "test": test}
        case |= {"size": quality.SIZE, "k": quality.NEIGHBOURS}
        rows = before.get("rows", {}) if before.get("case") == case and not options.again else {}
        rows = {name: row for name, row in rows.items() if "right" in row}
        missing = [name for name in chosen if name not in rows]
        pythons = pythons_of(projects, options.environments)
        for name, row in quality.judge_all(pythons, missing, data, options.minutes, work / "runs", options.seed):
            rows[name] = row
            known = [*quality.ROWS, quality.UNTRAINED]
            save({"case": case, "rows": {key: rows[key] for key in known if key in rows}})


def main() -> None:
    options = read_options()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "peers.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}

    def save(part: str, content: dict[str, Any]) -> None:
        words = shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]])
        facts = {"command": words, "environment": environment() | {"threads": torch.get_num_threads()}}
        found[part] = facts | content
        write_whole(file, (json.dumps(found, indent=1) + "\n").encode())
        write_whole(options.out / "peers.md", page(found).encode())

    if options.photos:
        save("steps", measure_steps(options))
    else:
        measure_quality(options, found.get("quality", {}), partial(save, "quality"))
    print(page(found))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from error
