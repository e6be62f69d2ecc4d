"""The folder of a run: the name of every file in it, and the reader of metrics.jsonl. Its JSON files are read by schemas.py.

Training writes these files; resuming, evaluations, the report, the export and the reference job read them.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinolab.schemas import is_number

Row = dict[str, Any]  # one line of metrics.jsonl: a "step", and figures by name


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files; none of them need exist."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, machine, and checksums of the images' names."""
        return self.path / "environment.json"

    @property
    def listing(self) -> Path:
        """Cache of the list of images."""
        return self.path / "sources.json.gz"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def wandb_id(self) -> Path:
        return self.path / "wandb_id"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """The run's product: the weights of the trained backbone."""
        return self.path / "model.safetensors"

    @property
    def card(self) -> Path:
        """The product's model card: architecture, pixels, and where the weights come from."""
        return self.path / "model.json"

    @property
    def best(self) -> Path:
        """Folder of the weights with the best k-NN accuracy while training, and their model card."""
        return self.path / "best"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def attention(self) -> Path:
        return self.path / "attention.png"

    @property
    def pca(self) -> Path:
        return self.path / "pca.png"

    @property
    def evaluations(self) -> Path:
        """A folder for each evaluation."""
        return self.path / "eval"

    @property
    def speed(self) -> Path:
        """Results of benchmarks."""
        return self.path / "speed"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """What the ways of a job gave, and which one it recommends."""
        return self.path / "figures.json"

    @property
    def learning_curves(self) -> Path:
        """Accuracy over the number of labels, for the ways of a job."""
        return self.path / "learning_curves.png"

    @property
    def video(self) -> Path:
        """The demo video of a job."""
        return self.path / "video.mp4"

    @property
    def job(self) -> Path:
        """The settings of the reference job; recipe.json where an earlier version wrote it."""
        earlier = self.path / "recipe.json"
        return earlier if earlier.is_file() else self.path / "job.json"

    @property
    def stages(self) -> Path:
        """A file for each finished stage of the reference job."""
        return self.path / "stages"

    @property
    def split(self) -> Path:
        """Which images the reference job trains and tests on."""
        return self.path / "data" / "split.json"

    @property
    def untrained(self) -> Path:
        """The reference job's network with initial weights."""
        return self.path / "baselines" / "untrained"

    def read_metrics(self) -> tuple[list[Row], list[str]]:
        """See the function `read_metrics`."""
        return read_metrics(self.metrics)


METADATA = ".metadata"  # of a checkpoint; a folder with it is a whole one
RESULT = "result.json"  # an evaluation's figures, in its folder
PREDICTIONS = "predictions.csv"
CONFUSION = "confusion.png"
PICTURES = "pictures"  # folder beside result.json with the PNGs of an evaluation, which the report shows in the order of their names
LAYER = "layer.safetensors"  # the trained linear layer of an evaluation
NETWORK = "network"  # folder beside it with the weights and model card of a network that was trained with the layer
COMPARISON = "all.json"  # several evaluations of several encoders


def step_of(place: Path) -> int:
    """The step of a checkpoint, from its folder's name."""
    return int(place.name.removeprefix("step_"))


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step_*") if p.name[5:].isdecimal() and (p / METADATA).is_file())


def read_metrics(file: Path) -> tuple[list[Row], list[str]]:
    """The lines of a metrics.jsonl, in steps that never decrease, and a sentence for each line that cannot be used.

    A resumed run repeats the steps since its checkpoint: the later lines count. The last line may be cut off where the process was
    killed while it wrote; that is no problem and gets no sentence. A file that does not exist has no lines.
    """
    rows: list[Row] = []
    problems: list[str] = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, 1):
        row = read_line(line)
        if row is None:
            if number < len(lines):
                problems.append(f'{file.name}, line {number}: left out, not a JSON object of numbers with a "step"')
            continue
        step = row["step"]
        while rows and rows[-1]["step"] > step:
            rows.pop()
        rows.append(row)
    return rows, problems


def read_line(line: str) -> Row | None:
    """A line of metrics.jsonl; None where it is not an object of numbers with a finite "step"."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not all(map(is_number, row.values())):
        return None
    return row if math.isfinite(row.get("step", math.nan)) else None
