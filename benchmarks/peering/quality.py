"""Training for equal CPU time, and one judge for the backbones that come of it: scikit-learn's k-NN.

Each row is a training in a process of its own. Two short trainings measure what a step costs, in CPU seconds of the process; the third
has as many steps as the time allows, so that all schedules run to their end. Then the script writes the features of the same images,
which are cut here once, and nearest neighbours by cosine similarity vote with equal weights.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from dinolab.data.decode import read_image
from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.data.views import eval_view
from dinolab.options import Columns
from peering.environments import SETTINGS
from peering.rounds import Failed

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "dinolab": ("dinolab", {}),
    "lightly-train dino": ("lightly-train", {"method": "dino", "model": "small"}),
    "lightly-train dino adamw": ("lightly-train", {"method": "dino", "optim": "adamw", "model": "small"}),
    "lightly-train dinov2": ("lightly-train", {"method": "dinov2", "model": "small"}),
    "lightly-train dinov2 1024": ("lightly-train", {"method": "dinov2", "model": "small", "prototypes": 1024}),
    "lightly-train dino resnet18": ("lightly-train", {"method": "dino", "model": "resnet18"}),
}
OURS, UNTRAINED = "dinolab", "untrained"
SIZE, NEIGHBOURS = 112, 20  # pixels: a multiple of the patch sizes 14 and 16
TRIALS = 3, 9  # steps of the two short trainings


class Labelled:
    """Photos to train with, photos to test with, both with labels, and their views for the judge."""

    def __init__(self, folder: Path, work: Path, images: int = 0):
        table = (folder / "Training_set.csv").is_file()
        train, test = ("Training_set.csv", "Testing_labels.csv") if table else ("train", "test")
        self.train, self.test = (
            open_source(str(folder / name), Columns(images=str(folder / part) if table else ""), need_labels=True)
            for name, part in ((train, "train"), (test, "test"))
        )
        self.files = work / "train.npy", work / "test.npy"
        self.photos = [str(Path(path).resolve()) for path in self.train.paths]
        self.labels = []
        for source, file in zip((self.train, self.test), self.files):
            chosen = np.linspace(0, len(source) - 1, min(images or len(source), len(source))).astype(int)
            np.save(file, np.stack([eval_view(read_image(source.paths[n]), SIZE) for n in chosen]))
            self.labels.append(names(source)[chosen])


def names(source: Source) -> np.ndarray:
    assert source.labels is not None
    return np.array(source.classes)[np.asarray(source.labels)]


class Training:
    """The script of one row, with its case."""

    def __init__(self, python: Path, script: Path, settings: dict[str, Any], data: Labelled, work: Path, seed: int):
        self.command, self.work, self.data = [str(python), str(script)], work, data
        self.case = settings | {"photos": data.photos, "seed": seed}

    def run(self, steps: int, judged: bool = False) -> tuple[float, float]:
        """Train for some steps in a fresh folder, and return CPU and wall seconds of the whole process.

        Raises:
            Failed: it ended with an error.
        """
        folder = self.work / f"{steps}_steps{'_judged' * judged}"
        folder.mkdir(parents=True)
        features = list(zip(map(str, self.data.files), self.outputs(folder))) if judged else []
        file, log = folder / "case.json", folder / "log.txt"
        file.write_text(json.dumps(self.case | {"folder": str(folder), "steps": steps, "features": features}))
        began = time.perf_counter()
        with log.open("w") as out:
            process = subprocess.Popen(
                [*self.command, str(file)], stdout=out, stderr=out, env=os.environ | SETTINGS, cwd=folder
            )
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise Failed(lines[-1] if lines else f"it ended with status {process.returncode}")
        self.folder = folder
        return used.ru_utime + used.ru_stime, time.perf_counter() - began

    def outputs(self, folder: Path) -> list[str]:
        return [str(folder / "train_features.npy"), str(folder / "test_features.npy")]

    def judge(self) -> np.ndarray:
        """Which test images the neighbours of the last run's features tell right."""
        train, test = (unit(np.load(file)) for file in self.outputs(self.folder))
        nearest = KNeighborsClassifier(min(NEIGHBOURS, len(train)), metric="cosine", algorithm="brute")
        return nearest.fit(train, self.data.labels[0]).predict(test) == self.data.labels[1]


def unit(x: np.ndarray) -> np.ndarray:
    if not np.isfinite(x).all():
        raise Failed("its features are not finite")
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)


def train_for(training: Training, minutes: float) -> dict[str, Any]:
    """Train for a number of CPU minutes, and judge the result."""
    (first, _), (second, _) = (training.run(steps) for steps in TRIALS)
    per_step = max((second - first) / (TRIALS[1] - TRIALS[0]), 1e-3)
    steps = max(1, math.floor(60 * minutes / per_step))
    print(f"  {per_step:.2f} CPU seconds a step: {steps} steps", file=sys.stderr)
    cpu, wall = training.run(steps, judged=True)
    return {"steps": steps, "cpu_per_step": per_step, "cpu": cpu, "wall": wall, "right": training.judge().tolist()}


def judge_all(
    pythons: dict[str, Path | str], chosen: list[str], data: Labelled, minutes: float, work: Path, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row when it is done; a row that fails has a "note".

    Args:
        pythons: of each project, or why there is none.
        chosen: names of rows.
        minutes: CPU time of each training.
        work: an empty folder.
    """
    for n, name in enumerate(chosen):
        project, settings = ROWS.get(name, ("dinolab", {}))
        python = pythons[project]
        print(name, file=sys.stderr)
        if isinstance(python, str):
            yield name, {"note": python}
            continue
        script = Path(__file__).parent / f"{project.replace('-', '_')}_quality.py"
        training = Training(python, script, settings, data, work / str(n), seed)
        try:
            if name == UNTRAINED:
                training.run(0, judged=True)
                yield name, {"steps": 0, "right": training.judge().tolist()}
            else:
                yield name, train_for(training, minutes)
        except Failed as failure:
            yield name, {"note": str(failure)}


def accuracy(right: list[bool]) -> tuple[float, float]:
    """Share of right answers, and half the width of its 95 % interval, both in per cent."""
    share = float(np.mean(right))
    return 100 * share, 196 * math.sqrt(share * (1 - share) / len(right))


def points_more(right: list[bool], ours: list[bool]) -> tuple[float, float]:
    """Per cent of the same images by which one row is above dinolab's, and half the width of the 95 % interval."""
    apart = np.asarray(right, float) - np.asarray(ours, float)
    return 100 * float(apart.mean()), 196 * float(apart.std()) / math.sqrt(len(apart))
