"""The job that trains on Human Action Recognition at one of the fixed scales."""

from dataclasses import dataclass
from pathlib import Path

from dinolab.fields import options
from dinolab.jobs.job import Job
from dinolab.jobs.plan import BASELINE, SCALES, Scale
from dinolab.options import Config
from dinolab.recipes import load_config, schema
from dinolab.rundir import RunFolder


@dataclass(frozen=True)
class HarJob(Job):
    """What the user has set. The job's folder is also that of the run."""

    scale_name: str
    options: tuple[str, ...] = ()
    official: str = ""
    clip: str = ""

    @property
    def scale(self) -> Scale:
        return SCALES[self.scale_name]

    @property
    def baseline(self) -> RunFolder:
        """The run of the other method."""
        return RunFolder(self.out / "baselines" / BASELINE)

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

    def usual(self) -> Config:
        return self.config(self.out)

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
