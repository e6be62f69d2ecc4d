"""The reference job: Human Action Recognition from images to report and video, by one command that resumes."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinolab.errors import UserError, say
from dinolab.jobs.checks import check_files, check_options, check_packages, check_scale_and_stages, keep_settings
from dinolab.jobs.job import Job
from dinolab.jobs.marks import do_stage
from dinolab.jobs.plan import SCALES
from dinolab.jobs.split import prepare
from dinolab.jobs.stages import STAGES
from dinolab.recipes import load_config
from dinolab.rundir import RunFolder
from dinolab.runs.folder import hold

__all__ = ["SCALES", "STAGES", "run_job"]


def run_job(
    data: str,
    out: str | Path = "runs/har",
    scale: str = "full",
    stages: Sequence[str] = (),
    *,
    official: str = "",
    clip: str = "",
    options: Sequence[str] = (),
    progress: bool = False,
) -> Path:
    """Train DINOv2 on Human Action Recognition, evaluate it beside its baselines, measure speed, write video and report.

    A finished stage is not repeated, and one that was stopped continues: call this again with the same arguments.

    Args:
        data: the set as downloaded, see `jobs/copies.py`; the same images may move between calls.
        out: the job's folder, which is also the folder of the DINOv2 run.
        scale: "smoke", "small" or "full", see `jobs/plan.py` and configs/har_SCALE.yaml.
        stages: some of STAGES; by default all of them, in their order.
        official: weights as Meta published them, evaluated beside the run.
        clip: video, or folder of images, for the demo video; by default test images of all classes.
        options: `key=value` words that override the scale's configuration.
        progress: show progress bars.

    Returns:
        The job's folder.

    Raises:
        UserError: a mistake that the user can mend; what is finished by then is kept.
    """
    out = Path(out)
    check_scale_and_stages(scale, stages)
    names = [name for name in STAGES if name in stages or not stages]
    check_options(options)
    check_files(official=official, clip=clip)
    check_packages(names)
    load_config(f"har_{scale}", options)  # refuses unknown options before anything is done
    new = not out.exists()
    keep_settings(out, scale, options)
    with hold(RunFolder(out).stages):
        try:
            split = prepare(data, out, SCALES[scale].most, progress)
        except UserError:
            if new:  # data that the job cannot use leave nothing behind
                shutil.rmtree(out, ignore_errors=True)
            raise
        print_split(split.facts)
        job = Job(out, scale, tuple(options), split, official, clip, progress)
        for number, name in enumerate(names, 1):
            do_stage(job, name, f"[{number}/{len(names)}] {name}")
    return out


def print_split(facts: dict[str, Any]) -> None:
    train, test, classes = facts["train"]["images"], facts["test"]["images"], len(facts["classes"])
    say(f"data: {train:,} train images, {test:,} test images, {classes} classes; {facts['split']}")
    for sentence in facts["differences"]:
        say(f"data differs: {sentence}")
