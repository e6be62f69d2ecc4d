"""Mistakes that are found before a job does anything."""

import json
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dinolab import parallel
from dinolab.errors import UserError
from dinolab.files import write_whole
from dinolab.jobs.plan import SCALES
from dinolab.jobs.stages import STAGES
from dinolab.options import COLUMNS
from dinolab.rundir import RunFolder
from dinolab.schemas import JOB, read_object

OF_DATA = [f"data.{name}" for name in ("path", *COLUMNS)]
OWN = (*OF_DATA, "eval.train", "eval.test", "run.dir", "method")  # options that the job sets itself
EXTRAS = {"timm": "timm", "av": "video"}  # packages that stages need: the extra that installs them


def check_scale_and_stages(scale: str, stages: Sequence[str]) -> None:
    if scale not in SCALES:
        raise UserError(f"scale={scale}: one of {', '.join(SCALES)}")
    for name in stages:
        if name not in STAGES:
            hint = f"; did you mean data={name}?" if Path(name).exists() else ""
            raise UserError(f"stage {name!r} is not one of {', '.join(STAGES)}{hint}")


def check_options(options: Sequence[str]) -> None:
    for word in options:
        if word.partition("=")[0] in OWN:
            raise UserError(f"{word}: the job sets this option itself; data= names the images, out= the folder")


def check_files(**named: str) -> None:
    parallel.refuse_many("dinolab job")
    for word, path in named.items():
        if path and not path.startswith(("hf:", "timm:")) and not Path(path).exists():
            raise UserError(f"{word}={path}: no such file")


def check_packages(names: Iterable[str]) -> None:
    missing = {package for name in names for package in STAGES[name].packages if find_spec(package) is None}
    if missing:
        extras = ",".join(sorted(EXTRAS[package] for package in missing))
        raise UserError(f"{' and '.join(sorted(missing))} is missing: pip install 'dinolab[{extras}]'")


def keep_settings(out: Path, about: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write job.json; once the job has divided its data, refuse other settings than it began with.

    Args:
        about: what else the file says.
    """
    file = RunFolder(out).job
    if not file.is_file() and out.is_dir() and any(out.iterdir()):
        raise UserError(f"out={out}: holds something else; name a new folder")
    if not RunFolder(out).split.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(about | settings, indent=2) + "\n").encode())
        return
    began = read_object(file, JOB)
    for key, value in settings.items():
        if began.get(key) != value:
            raise UserError(
                f"out={out}: began with {key} {began.get(key)}, not {value}; give the same, or another out="
            )


def of_results(options: Sequence[str]) -> list[str]:
    """The words that change results, in a fixed order."""
    return sorted(word for word in options if not word.startswith(("run.", "eval.")))
