"""Jobs: from images to table, recommendation, report and video, by one command that resumes."""

import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dinolab.data.addresses import absolute
from dinolab.errors import UserError, say
from dinolab.jobs import har_images, own_images, plan
from dinolab.jobs.checks import (
    check_files,
    check_options,
    check_packages,
    check_scale_and_stages,
    keep_settings,
    of_results,
)
from dinolab.jobs.har_job import HarJob
from dinolab.jobs.marks import do_stage
from dinolab.jobs.plan import SCALES
from dinolab.jobs.split import Split
from dinolab.jobs.stages import STAGES
from dinolab.jobs.way_stages import stages_of
from dinolab.jobs.ways import choose
from dinolab.jobs.ways_job import WaysJob
from dinolab.options import Columns
from dinolab.plan.text import parse_time
from dinolab.recipes import load_config
from dinolab.rundir import RunFolder
from dinolab.runs.folder import hold

__all__ = ["SCALES", "STAGES", "run_har", "run_job"]


def run_job(
    data: str,
    out: str | Path = "",
    budget: str = "1h",
    ways: Sequence[str] = (),
    *,
    test: str = "",
    unlabelled: str = "",
    columns: Columns | None = None,
    har: bool = False,
    progress: bool = False,
) -> Path:
    """Go several ways to a network for labelled images within a budget of time; compare them, and recommend one.

    A finished stage is not repeated, and one that was stopped continues: call this again with the same arguments.

    Args:
        data: labelled or half-labelled images, as `open_source` takes them.
        out: the job's folder; by default runs/job_NAME.
        budget: time on the clock, such as "20min" or "1h".
        ways: names in `jobs/ways.py`; by default all that can be gone here.
        test: labelled test images; by default a fifth of each class is held out.
        unlabelled: further images, without labels.
        columns: how a CSV file or dataset is read.
        har: `data` is a copy of Human Action Recognition, see `jobs/copies.py`.
        progress: show progress bars.

    Returns:
        The job's folder.

    Raises:
        UserError: a mistake that the user can mend; what is finished by then is kept.
    """
    seconds = parse_time(budget, "budget")
    going, left_out = choose(ways)
    title = plan.TITLE if har else Path(absolute(data)).name
    out = Path(out or f"runs/job_{Path(title).stem}")
    check_files()
    named = {"budget": budget, "ways": ",".join(ways), "test": test, "unlabelled": unlabelled, "out": str(out)}
    about = {"job": plan.NAME if har else "own", "title": title, "going": going, "left_out": left_out}
    about["command"] = command(data, har, named | (columns or Columns()).chosen())
    settings = {"budget": seconds, "ways": list(ways)}

    def prepare() -> Split:
        if har:
            return har_images.prepare(data, out, None, progress)
        return own_images.prepare(data, out, test, unlabelled, columns, progress)

    def carry_out(split: Split) -> None:
        go_ways(WaysJob(out, split, progress, tuple(going), seconds))

    work_in(out, lambda: keep_settings(out, about, settings), prepare, carry_out)
    return out


def go_ways(job: WaysJob) -> None:
    """Do the stages of all ways that the job began with: packages may have been installed since."""
    job = replace(job, ways=tuple(job.decided()["going"]))
    for name, why in job.left_out.items():
        say(f"{name}: left out: {why}")
    stages = stages_of(job)
    for number, name in enumerate(stages, 1):
        if name not in job.left_out:
            do_stage(job, stages, name, f"[{number}/{len(stages)}] {name}")


def command(data: str, har: bool, options: Mapping[str, str]) -> str:
    """The command line of a job that goes several ways."""
    words = [f"{key}={value}" for key, value in options.items() if value]
    return shlex.join(["dinolab", "job", *([plan.NAME, f"data={data}"] if har else [data]), *words])


def run_har(
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
    about = {"job": plan.NAME, "title": plan.TITLE}
    settings = {"scale": scale, "options": of_results(options)}

    def carry_out(split: Split) -> None:
        job = HarJob(out, split, progress, scale, tuple(options), official, clip)
        for number, name in enumerate(names, 1):
            do_stage(job, STAGES, name, f"[{number}/{len(names)}] {name}")

    work_in(
        out,
        lambda: keep_settings(out, about, settings),
        lambda: har_images.prepare(data, out, SCALES[scale].most, progress),
        carry_out,
    )
    return out


def work_in(
    out: Path, keep: Callable[[], None], prepare: Callable[[], Split], carry_out: Callable[[Split], None]
) -> None:
    """Hold the job's folder, divide its images, and do its stages. Data that the job cannot use leave nothing behind."""
    new = not out.exists()
    keep()
    with hold(RunFolder(out).stages):
        try:
            split = prepare()
        except UserError:
            if new:
                shutil.rmtree(out, ignore_errors=True)
            raise
        print_split(split.facts)
        carry_out(split)


def print_split(facts: dict[str, Any]) -> None:
    train, test, classes = facts["train"]["images"], facts["test"]["images"], len(facts["classes"])
    more = f", {facts['unlabelled_images']:,} without a label" if facts["unlabelled_images"] else ""
    say(f"data: {train:,} train images, {test:,} test images{more}, {classes} classes; {facts['split']}")
    for sentence in facts["differences"]:
        say(f"data differs: {sentence}")
