"""Does a small student learn more from a frozen teacher than by itself?

    python benchmarks/distill.py [--teacher RUN] [--steps 800] [--seeds 0 1 2] [--out docs/results/distill.json]

The teacher is a run on the demo's scenes, by default one that this script trains first. The student has the demo's recipe with
half the width (model.dim=32). For each seed it is trained alone, distilled from the teacher's class tokens, and distilled from class
tokens and patches, with the same number of steps on the same images. The figure is the k-NN accuracy on scenes whose digits are in no
training scene.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import dinolab
from dinolab.data.digits import SIDE, make_scenes
from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.evals import knn
from dinolab.machine import environment
from dinolab.recipes import load_config

STUDENT = ["model.dim=32"]
DISTILL = ["method=distill", "loss.teacher_temperature_start=0.05", "loss.teacher_temperature=0.05"]
PATCHES = ["loss.ibot=1", "ibot_head.hidden=256", "ibot_head.bottleneck=64", "ibot_head.prototypes=256"]
ROWS: dict[str, list[str]] = {
    "alone": STUDENT,
    "distilled, class tokens": [*STUDENT, *DISTILL],
    "distilled, class tokens and patches": [*STUDENT, *DISTILL, *PATCHES],
}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--teacher", type=Path, help="the run's folder (default: the demo's recipe, trained here first)")
    args.add_argument("--steps", type=int, default=800)
    args.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args.add_argument("--out", type=Path, default=Path("docs/results/distill.json"))
    options = args.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scenes = make_scenes(Path(folder) / "scenes")
        teacher = options.teacher or train(scenes, Path(folder) / "teacher", [])
        of_teacher = accuracy(scenes, teacher)
        print(f"{of_teacher:6.1%}  the teacher", flush=True)
        table, length = {}, [f"optim.length={options.steps} steps"]
        for n, (name, words) in enumerate(ROWS.items()):
            taught_by = [f"teacher={teacher}"] if "method=distill" in words else []
            found = []
            for seed in options.seeds:
                run = train(scenes, Path(folder) / f"{n}_{seed}", [*words, *taught_by, *length, f"seed={seed}"])
                found.append(accuracy(scenes, run))
                print(f"{found[-1]:6.1%}  {name}, seed {seed}", flush=True)
            table[name] = {"options": words, "knn": found, "mean": statistics.mean(found)}
    seeds = " ".join(map(str, options.seeds))
    teacher_option = " --teacher RUN" if options.teacher else ""
    facts = {
        "command": f"python benchmarks/distill.py{teacher_option} --steps {options.steps} --seeds {seeds}",
        "environment": environment(),
        "teacher": {"knn": of_teacher},
        "rows": table,
    }
    options.out.write_text(json.dumps(facts, indent=2) + "\n")


def train(scenes: Path, folder: Path, words: list[str]) -> Path:
    """Train with the demo's recipe, with some options changed; return the run's folder."""
    usual = [f"data.path={scenes / 'train'}", f"run.dir={folder}"]
    return dinolab.train(load_config("demo", [*usual, "eval.every=0 steps", "run.pictures=false", *words]))


def accuracy(scenes: Path, run: Path) -> float:
    """Compute the k-NN accuracy of the run on the test scenes."""
    reference, query = (open_source(str(scenes / part), need_labels=True) for part in ("train", "test"))
    return knn.monitor(dinolab.load(run), reference, query, SIDE)["knn"]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from error
