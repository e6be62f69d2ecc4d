"""Measure which options matter in a small run: train with the demo's recipe, and with one option changed at a time.

    python benchmarks/small_runs.py [--steps 500] [--seed 0] [--out docs/results/small_runs.json]

Each row is a training on the demo's scenes; its figure is the k-NN accuracy on held-out digits. A row takes about a minute on 2 cores.
"""

import argparse
import json
import tempfile
from pathlib import Path

import dinolab
from dinolab.data.digits import make_scenes
from dinolab.machine import environment
from dinolab.recipes import load_config
from dinolab.rundir import RunFolder

ROWS: dict[str, list[str]] = {
    "the demo's recipe": [],
    "initial weights as published": ["model.init=published"],
    "teacher momentum from 0.9": ["ema.start=0.9"],
    "teacher momentum from 0.99": ["ema.start=0.99"],
    "teacher temperature 0.04 -> 0.07": ["loss.teacher_temperature_start=0.04", "loss.teacher_temperature=0.07"],
    "centring instead of Sinkhorn-Knopp": ["loss.targets=centring"],
    "no KoLeo": ["loss.koleo=0"],
    "no KoLeo, batch norm in the head": ["loss.koleo=0", "head.batch_norm=true"],
    "batch norm in the head": ["head.batch_norm=true"],
    "colour jitter as published": ["views.jitter=0.8", "views.jitter_strength=[0.4,0.4,0.2,0.1]", "views.grey=0.2"],
    "iBOT, weight 1": ["loss.ibot=1", "ibot_head.hidden=256", "ibot_head.bottleneck=64", "ibot_head.prototypes=256"],
    "learning rate 1e-3": ["optim.lr=1e-3"],
    "four local crops": ["views.locals=4", "views.local_size=12", "views.local_scale=[0.15,0.5]"],
    "all as published (DINOv2's values)": [
        "model.init=published", "ema.start=0.992", "loss.teacher_temperature_start=0.04", "loss.teacher_temperature=0.07",
        "loss.teacher_temperature_warmup=30%", "views.jitter=0.8", "views.jitter_strength=[0.4,0.4,0.2,0.1]", "views.grey=0.2",
        "loss.ibot=1", "ibot_head.hidden=256", "ibot_head.bottleneck=64", "ibot_head.prototypes=256",
        "optim.lr=4e-3", "optim.lr_scaling=sqrt", "optim.layer_decay=0.9", "optim.patch_embed_lr=0.2",
        "optim.weight_decay_end=0.4", "model.layerscale=1e-5",
    ],
}  # fmt: skip


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--steps", type=int, default=500)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--out", type=Path, default=Path("docs/results/small_runs.json"))
    options = args.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scenes = make_scenes(Path(folder) / "scenes")
        table = {}
        for n, (name, words) in enumerate(ROWS.items()):
            cfg = load_config("demo", [
                f"data.path={scenes / 'train'}", f"eval.train={scenes / 'train'}", f"eval.test={scenes / 'test'}",
                f"run.dir={Path(folder) / str(n)}", "run.pictures=false", f"optim.length={options.steps} steps",
                f"eval.every={options.steps} steps", "eval.max_images=4000", f"seed={options.seed}", *words,
            ])  # fmt: skip
            rows, _ = RunFolder(dinolab.train(cfg)).read_metrics()
            keys = ("dino", "log_k", "teacher_entropy", "effective_rank")
            last = {k: next(r[k] for r in reversed(rows) if k in r) for k in keys}
            table[name] = {"options": words, "knn": rows[-1]["knn"], **last}
            print(f"{rows[-1]['knn']:6.1%}  loss {last['dino']:.2f}  {name}", flush=True)
    command = f"python benchmarks/small_runs.py --steps {options.steps} --seed {options.seed}"
    options.out.write_text(
        json.dumps({"command": command, "environment": environment(), "rows": table}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
