"""What all jobs have: a folder, images, and the files that their stages write."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinolab.jobs.split import Split
from dinolab.options import Config
from dinolab.parallel import choose_device
from dinolab.precision import choose_precision, name_of
from dinolab.rundir import COMPARISON, RunFolder
from dinolab.runs.build import workers


@dataclass(frozen=True)
class Job(ABC):
    """One job. Its files are those of a run, and a few of its own."""

    out: Path
    split: Split
    progress: bool

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.out)

    @property
    def untrained(self) -> RunFolder:
        """The network with its initial weights."""
        return RunFolder(self.folder.untrained)

    @property
    def comparison(self) -> Path:
        """all.json: encoders side by side."""
        return self.folder.evaluations / "all" / COMPARISON

    @property
    def table(self) -> Path:
        return self.out / "table.md"

    @abstractmethod
    def usual(self) -> Config:
        """The configuration whose device, precision and number of loader processes evaluations take over."""

    def features(self) -> dict[str, Any]:
        """Options of evaluations: encoders run as they do in training."""
        cfg = self.usual()
        device = choose_device(cfg.run.device)
        return {
            "precision": name_of(choose_precision(cfg.run.precision, device)),
            "device": device,
            "workers": workers(cfg, device),
            "cache": self.out / "features",
            "progress": self.progress,
        }
