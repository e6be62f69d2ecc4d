"""What the stages of a job are handed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinolab.jobs.scales import SCALES, Scale
from dinolab.jobs.split import Split
from dinolab.options import Config
from dinolab.parallel import choose_device
from dinolab.precision import choose_precision
from dinolab.recipes import load_config
from dinolab.runs.build import workers


@dataclass(frozen=True)
class Job:
    out: Path
    scale_name: str
    options: tuple[str, ...]
    split: Split
    official: str = ""
    clip: str = ""
    progress: bool = False

    @property
    def scale(self) -> Scale:
        return SCALES[self.scale_name]

    @property
    def dino(self) -> Path:
        return self.out / "baselines" / "dino"

    @property
    def untrained(self) -> Path:
        return self.out / "baselines" / "untrained"

    def config(self, folder: Path, *words: str) -> Config:
        train, test = self.split.train, self.split.test
        own = [f"data.path={train}", f"eval.train={train}", f"eval.test={test}", f"run.dir={folder}", *words]
        return load_config(f"har_{self.scale_name}", [*self.options, *own])

    def features(self) -> dict[str, Any]:
        """How encoders are run in evaluations: as in training."""
        cfg = self.config(self.out)
        device = choose_device(cfg.run.device)
        return {
            "precision": "bf16" if choose_precision(cfg.run.precision, device) else "fp32",
            "device": device,
            "workers": workers(cfg, device),
            "cache": self.out / "features",
            "progress": self.progress,
        }
