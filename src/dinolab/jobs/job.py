"""A job: its folder, its images and its settings, as the stages get them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinolab.fields import options
from dinolab.jobs.plan import BASELINE, SCALES, Scale
from dinolab.jobs.split import Split
from dinolab.options import Config
from dinolab.parallel import choose_device
from dinolab.precision import choose_precision, name_of
from dinolab.recipes import load_config, schema
from dinolab.rundir import COMPARISON, RunFolder
from dinolab.runs.build import workers


@dataclass(frozen=True)
class Job:
    """One job: its folder, its images, and what the user has set. Its files are those of a run, and a few of its own."""

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
    def folder(self) -> RunFolder:
        return RunFolder(self.out)

    @property
    def baseline(self) -> RunFolder:
        """The run of the other method."""
        return RunFolder(self.out / "baselines" / BASELINE)

    @property
    def untrained(self) -> RunFolder:
        """The network with its initial weights."""
        return RunFolder(self.folder.untrained)

    @property
    def comparison(self) -> Path:
        """all.json: encoders side by side."""
        return self.folder.evaluations / "all" / COMPARISON

    @property
    def finetuned(self) -> Path:
        """Evaluation of the run's network, fine-tuned."""
        return self.folder.evaluations / "finetuned"

    @property
    def supervised(self) -> Path:
        """Evaluation of the untrained network, trained with labels."""
        return self.folder.evaluations / "supervised"

    @property
    def submission(self) -> Path:
        """Predictions for the images without labels."""
        return self.out / "submission"

    @property
    def table(self) -> Path:
        return self.out / "table.md"

    def config(self, folder: Path, method: str = "") -> Config:
        """The configuration of a training into this folder; with another method, without options that this one does not have."""
        train, test = self.split.train, self.split.test
        words = [f"data.path={train}", f"eval.train={train}", f"eval.test={test}", f"run.dir={folder}"]
        given = self.options
        if method:
            known = dict(options(schema(method)))
            given = tuple(word for word in given if word.partition("=")[0] in known)
            words.append(f"method={method}")
        return load_config(f"har_{self.scale_name}", [*given, *words])

    def features(self) -> dict[str, Any]:
        """Options of evaluations: encoders run as they do in training."""
        cfg = self.config(self.out)
        device = choose_device(cfg.run.device)
        return {
            "precision": name_of(choose_precision(cfg.run.precision, device)),
            "device": device,
            "workers": workers(cfg, device),
            "cache": self.out / "features",
            "progress": self.progress,
        }
