"""Small image folders for tests."""

from pathlib import Path

import cv2
import numpy as np

from dinolab.fields import options
from dinolab.methods import METHODS
from dinolab.recipes import schema


def make_folder(folder: Path, per_class: int = 12, classes: int = 2, side: int = 24, seed: int = 0) -> Path:
    """CLASS/N.png; a class is a colour, with noise."""
    rng = np.random.default_rng(seed)
    for c in range(classes):
        (folder / f"class{c}").mkdir(parents=True, exist_ok=True)
        for n in range(per_class):
            colour = np.full(3, 40.0)
            colour[c % 3] = 200
            picture = (colour + rng.normal(0, 25, (side, side, 3))).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f"class{c}" / f"{n:03d}.png"), picture)
    return folder


TINY = [  # a run of a few seconds
    "model.dim=16", "model.depth=2", "model.heads=2", "model.patch_size=4", "model.drop_path=0.2",
    "views.global_size=16", "views.local_size=8", "views.locals=2",
    "head.hidden=16", "head.bottleneck=8", "head.prototypes=12",
    "ibot_head.hidden=16", "ibot_head.bottleneck=8", "ibot_head.prototypes=12",
    "optim.batch_size=8", "optim.length=12 steps", "optim.warmup=3 steps", "loss.freeze_prototypes=1 steps",
    "run.save_every=4 steps", "run.log_every=2", "run.workers=0", "run.device=cpu", "run.pictures=false",
    "eval.every=6 steps", "run.precision=fp32",  # the same on CPUs with and without bf16
]  # fmt: skip


def fit_words(words: list[str]) -> list[str]:
    """The words without those that set an option which their method does not have, so that one list serves all methods."""
    method = next((word.partition("=")[2] for word in reversed(words) if word.startswith("method=")), "")
    known = dict(options(schema(method)))
    foreign = {name for other in METHODS for name, _ in options(schema(other)) if name not in known}
    return [word for word in words if word.partition("=")[0] not in foreign]
