"""Do two commits compute the same, bit for bit, on one machine? Compare short trainings and evaluations on generated images.

    python benchmarks/equality.py record before.json      # on the first commit
    python benchmarks/equality.py compare before.json     # on the second; prints what differs, and exits with status 1 if anything does

The trainings are DINO, DINOv2, distillation, and DINO with a ResNet-50. Each has twenty steps; their losses and a hash of the final
weights are recorded. The evaluations use the DINOv2 network; the accuracy and a hash of all predictions with their probabilities are
recorded. It takes about two minutes on two CPU cores.
"""

import csv
import hashlib
import json
import logging
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

import dinolab

STEPS = 20
CLASSES, EACH, SIDE = 4, 16, 48
SMALL = [
    f"optim.length={STEPS} steps",
    "optim.batch_size=8",
    "optim.warmup=4 steps",
    "views.global_size=32",
    "views.local_size=16",
    "views.locals=2",
    "head.prototypes=64",
    "head.hidden=32",
    "head.bottleneck=16",
    "loss.teacher_temperature_warmup=10 steps",
    "eval.every=0 steps",
    "run.log_every=1",
    "run.workers=0",
    "run.device=cpu",
    "run.precision=fp32",
    "run.pictures=false",
]
VIT = ["model.size=tiny", "model.dim=32", "model.depth=2", "model.heads=2", "model.patch_size=8"]
IBOT = ["ibot_head.prototypes=64", "ibot_head.hidden=32", "ibot_head.bottleneck=16"]
TRAININGS = {
    "dino": ("dino_vits16", [*VIT, "model.drop_path=0.1"]),
    "dinov2": ("dinov2_vits16", [*VIT, *IBOT, "run.micro_batch=4"]),
    "dinov2 batch norm": ("small_10k", [*VIT, *IBOT, "loss.ibot=1", "head.batch_norm=true", "loss.targets=centring"]),
    "distill": ("distill", [*VIT, *IBOT]),
    "dino resnet50": ("dino_resnet50", []),
}
EVALUATIONS: dict[str, dict] = {
    "knn": {"k": 5},
    "logreg": {"tokens": "both", "blocks": 2},
    "linear": {},
    "linear-dino": {"epochs": 2, "batch_size": 16},
    "finetune": {"epochs": 2, "batch_size": 16},
}


def make_images(folder: Path, seed: int) -> Path:
    """Write images of noise whose hue and texture depend on the class, as PNG files in a folder for each class."""
    rng = np.random.default_rng(seed)
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
        for n in range(EACH):
            coarse = rng.normal(0.3 + 0.1 * label, 0.25, (2 + 2 * label, 2 + 2 * label, 3))
            image = cv2.resize(coarse, (SIDE + n, SIDE), interpolation=cv2.INTER_CUBIC) + rng.normal(
                0, 0.05, (SIDE, SIDE + n, 3)
            )
            cv2.imwrite(str(folder / f"class{label}" / f"{n}.png"), (image.clip(0, 1) * 255).astype(np.uint8))
    return folder


def record(work: Path) -> dict[str, dict]:
    """Run all trainings and evaluations; return their figures, and hashes of weights and predictions."""
    train, test = make_images(work / "train", 0), make_images(work / "test", 1)
    found: dict[str, dict] = {}
    for name, (recipe, words) in TRAININGS.items():
        run = work / name.replace(" ", "_")
        teacher = [f"teacher={work / 'dino'}"] if name == "distill" else []
        dinolab.train(recipe, *SMALL, *words, *teacher, f"data.path={train}", f"run.dir={run}")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        weights = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
        found[f"train {name}"] = {"losses": [line["loss"] for line in lines if "loss" in line], "weights": weights}
    for name, options in EVALUATIONS.items():
        out = work / "eval" / name
        dinolab.evaluate(name, str(work / "dinov2"), str(train), str(test), out, cache="none", **options)
        predictions = (out / "predictions.csv").read_bytes()
        rows = list(csv.DictReader(predictions.decode().splitlines()))
        accuracy = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
        found[f"eval {name}"] = {"accuracy": accuracy, "predictions": hashlib.sha256(predictions).hexdigest()}
    return found


def main(what: str, file: str) -> int:
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        found = record(Path(folder))
    if what == "record":
        Path(file).write_text(json.dumps(found, indent=2) + "\n")
        return 0
    before = json.loads(Path(file).read_text())
    for name in before:
        same = found.get(name) == before[name]
        print(f"{name}: {'equal' if same else f'DIFFERS: {before[name]} before, {found.get(name)} now'}")
    return int(found != before)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("record", "compare"):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
