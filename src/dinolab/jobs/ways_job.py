"""A job that goes several ways to a network for somebody's images, within a budget of time."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinolab.files import write_whole
from dinolab.jobs.budget import LEAST_RESERVE, RESERVE, Pace
from dinolab.jobs.job import Job
from dinolab.jobs.ways import LABELS, PRETRAINED, SIZE, UNTRAINED, WAYS, recipe_for
from dinolab.options import Config
from dinolab.recipes import load_config
from dinolab.rundir import RunFolder
from dinolab.schemas import JOB, STAGE, read_object


@dataclass(frozen=True)
class WaysJob(Job):
    """What the user has set; what the job has decided is in job.json."""

    ways: tuple[str, ...]  # in their order; the first is that which the others are compared with
    budget: float  # seconds

    @property
    def first(self) -> str:
        return self.ways[0]

    def run(self, name: str) -> RunFolder:
        """The folder of a way's training without labels."""
        return RunFolder(self.out / "ways" / name)

    def encoder(self, name: str) -> str:
        """What `dinolab.load` takes for the network of a way without labels."""
        if WAYS[name].kind == PRETRAINED:
            return str(self.run(name).path)
        return WAYS[name].encoder or str(self.folder.untrained)

    def result(self, name: str) -> Path:
        """The folder of the evaluation of a way with labels."""
        return self.folder.evaluations / name

    @property
    def curves(self) -> Path:
        """Accuracies with a part of the labels."""
        return self.out / "curves.json"

    def usual(self) -> Config:
        return self.config("scratch")

    def config(self, name: str, epochs: float = 1.0) -> Config:
        """The configuration of a way's training without labels."""
        way = WAYS[name]
        images = self.split.facts["train"]["images"] + self.split.facts["unlabelled_images"]
        words = [
            f"data.path={self.split.pretrain}",
            *self.split.monitor,
            f"run.dir={self.run(name).path}",
            f"optim.length={epochs:g} epochs",
            "eval.every=25%",
            "eval.max_images=300",
            "run.save_every=25%",
            "run.pictures=false",
        ]
        return load_config(recipe_for(way, images), [*way.words, *words])

    def evaluating(self) -> dict[str, Any]:
        """Options of evaluations with frozen features: all networks see images of one size."""
        return self.features() | {"size": str(SIZE)}

    def finetuning(self, encoder: Any) -> dict[str, Any]:
        """Options of evaluations that train the encoder: at the size it was made for, unless that is large and so takes long."""
        return self.features() | {"size": str(min(SIZE, encoder.image_size))}

    def decided(self) -> dict[str, Any]:
        """The contents of job.json."""
        return read_object(self.folder.job, JOB)

    def decide(self, **facts: Any) -> None:
        """Add to job.json. What stands there is kept when the job resumes."""
        write_whole(self.folder.job, (json.dumps(self.decided() | facts, indent=2) + "\n").encode())

    @property
    def left_out(self) -> dict[str, str]:
        """Why ways are not gone, by name."""
        return dict(self.decided().get("left_out", {}))

    @property
    def going(self) -> list[str]:
        """The ways that are gone."""
        return [name for name in self.ways if name not in self.left_out]

    def pace(self, name: str) -> Pace:
        return Pace(**self.decided()["paces"][name])

    def keep_pace(self, name: str, pace: Pace) -> None:
        self.decide(paces=self.decided().get("paces", {}) | {name: asdict(pace)})

    def leave_out(self, reasons: dict[str, str]) -> None:
        self.decide(left_out=self.left_out | reasons)

    def time_left(self, began: float) -> float:
        """Seconds of the budget that are left, without the reserve for the end.

        Args:
            began: when the stage that is now done began, by time.perf_counter().
        """
        marks = [*self.folder.stages.glob("*.json"), *self.folder.stages.glob("*.stopped")]
        spent = sum(read_object(file, STAGE).get("seconds", 0.0) for file in marks)
        return self.budget - max(RESERVE * self.budget, LEAST_RESERVE) - spent - (time.perf_counter() - began)

    def evaluation_of(self, name: str) -> float:
        """Seconds that the evaluation of a way takes beside its training; that of a way with labels is in its pace."""
        return float(self.decided().get("evaluations", {}).get(name, 0.0))


def uses_untrained(names: tuple[str, ...]) -> bool:
    """Whether a way begins with, or is, the untrained network."""
    return any(name == UNTRAINED or (WAYS[name].kind == LABELS and not WAYS[name].best) for name in names)
