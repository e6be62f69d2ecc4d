"""Does a small student learn more from a frozen encoder than by itself? The demo's student at half its width, both ways.

    python benchmarks/distill.py [--teacher RUN] [--steps 800] [--seeds 0 1 2] [--out docs/results/distill.json]

The teacher is a run on the demo's scenes, by default one that this trains first. Then for each seed the demo's recipe with
model.dim=32 alone, distilled from the teacher's class tokens, and from its patches too; all for the same steps and images.
k-NN is asked on scenes of digits that no training scene shows.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import dinolab
from dinolab.data.digits import SIDE, make_scenes
from dinolab.data.sources import open_source
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
    with tempfile.TemporaryDirectory() as folder:
        scenes = make_scenes(Path(folder) / "scenes")
        teacher = options.teacher or train(scenes, Path(folder) / "teacher", [])
        known = accuracy(scenes, teacher)
        print(f"{known:6.1%}  the teacher", flush=True)
        table, length = {}, [f"optim.length={options.steps} steps"]
        for n, (name, words) in enumerate(ROWS.items()):
            given = [f"teacher={teacher}"] if "method=distill" in words else []
            found = []
            for seed in options.seeds:
                run = train(scenes, Path(folder) / f"{n}_{seed}", [*words, *given, *length, f"seed={seed}"])
                found.append(accuracy(scenes, run))
                print(f"{found[-1]:6.1%}  {name}, seed {seed}", flush=True)
            table[name] = {"options": words, "knn": found, "mean": statistics.mean(found)}
    seeds = " ".join(map(str, options.seeds))
    given = " --teacher RUN" if options.teacher else ""
    facts = {
        "command": f"python benchmarks/distill.py{given} --steps {options.steps} --seeds {seeds}",
        "environment": environment(),
        "teacher": {"knn": known},
        "rows": table,
    }
    options.out.write_text(json.dumps(facts, indent=2) + "\n")


def train(scenes: Path, folder: Path, words: list[str]) -> Path:
    """The demo's recipe with some options changed."""
    usual = [f"data.path={scenes / 'train'}", f"run.dir={folder}"]
    return dinolab.train(load_config("demo", [*usual, "eval.every=0 steps", "run.pictures=false", *words]))


def accuracy(scenes: Path, run: Path) -> float:
    votes, asked = (open_source(str(scenes / part), need_labels=True) for part in ("train", "test"))
    return knn.monitor(dinolab.load(run), votes, asked, SIDE)["knn"]


if __name__ == "__main__":
    main()
