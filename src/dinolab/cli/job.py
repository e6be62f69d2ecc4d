"""dinolab job, on anybody's images and on Human Action Recognition."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinolab.cli.grammar import Family, Positional, Verb
from dinolab.cli.train import run_until_stopped
from dinolab.errors import UserError, say
from dinolab.fields import option
from dinolab.options import Columns
from dinolab.rundir import COMPARISON, RunFolder

STAGES = ("train", "baselines", "evaluate", "speed", "video", "report")  # of dinolab.jobs, which imports torch


@dataclass
class Own:
    budget: str = option("1h", "time on the clock for everything, such as 20min, 1h or 1h30min")
    out: str = option("", "the job's folder (empty: runs/job_NAME)")
    ways: list[str] = option(
        [],
        "ways to compare: frozen, distilled, continued, scratch, supervised, finetuned, untrained (empty: all that are possible here)",
    )
    test: str = option("", "labelled test images (empty: a fifth of each class is held out)")
    unlabelled: str = option("", "further images without labels, to train on and to classify")


@dataclass
class OwnColumns(Columns):
    """How a CSV, a text file, shards or a Hugging Face dataset are read."""


@dataclass
class Har:
    data: str = option(
        "",
        "the folder or zip as downloaded from Kaggle, or a Hugging Face copy (a folder, or hf:NAME)",
        required=True,
    )
    out: str = option("runs/har", "the job's folder")
    scale: str = option(
        "full",
        "smoke: 8 minutes on 2 CPU cores, only to see that it works; small: 4 blocks at 64 pixels, hours on 2 CPU cores; "
        "full: ViT-S/8 at 224 pixels on a GPU",
        choices=("smoke", "small", "full"),
    )
    budget: str = option("", "time in which to compare the ways of `dinolab job DATA`, in place of a scale's stages")
    official: str = option("", "file of DINOv2 weights as published, evaluated beside the run")
    clip: str = option("", "video or folder of images for the demo video (empty: test images of all classes)")


def run_own(data: str, own: Own, columns: Columns) -> int:
    from dinolab.jobs import run_job

    return until_stopped(
        lambda: show_ways(
            run_job(
                data, own.out, own.budget, own.ways, test=own.test, unlabelled=own.unlabelled, columns=columns,
                progress=sys.stderr.isatty(),
            )
        )
    )  # fmt: skip


def run_har(stages: list[str], own: Har, words: Sequence[str]) -> int:
    from dinolab.jobs import run_har as run
    from dinolab.jobs import run_job
    from dinolab.jobs.table import print_table

    if own.budget:
        if stages or words or own.official or own.clip:
            raise UserError("budget= goes with data= and out= alone: the ways have settings of their own")
        return until_stopped(
            lambda: show_ways(run_job(own.data, own.out, own.budget, har=True, progress=sys.stderr.isatty()))
        )

    def work() -> None:
        out = run(
            own.data, own.out, own.scale, stages, official=own.official, clip=own.clip, options=words,
            progress=sys.stderr.isatty(),
        )  # fmt: skip
        folder = RunFolder(out)
        if (folder.evaluations / "all" / COMPARISON).is_file():
            print_table(out)
        say_files(folder)

    return until_stopped(work)


def show_ways(out: Path) -> None:
    from dinolab.jobs.table import print_ways

    print_ways(out)
    say_files(RunFolder(out))


def say_files(folder: RunFolder) -> None:
    made = [str(file) for file in (folder.report, folder.video) if file.is_file()]
    say(", ".join(made) or folder.path)


def until_stopped(work: Callable[[], object]) -> int:
    try:
        return run_until_stopped(work)
    except KeyboardInterrupt:  # outside of a training
        print("dinolab: stopped. Finished stages are kept; the same command continues from there.", file=sys.stderr)
        raise


OWN = Verb(
    "your labelled images: several ways to a network, compared within a budget of time",
    run_own,
    about="Make networks for your images in several ways, each as the budget allows: a ready-made encoder as it is, a small network "
    "distilled from it, training from scratch without and with labels, fine-tuning. All are tested on the same images. The job writes a "
    "table with intervals, a recommendation in words, learning curves, a report, a video, and the recommended network. The same command "
    "again continues where it stopped. `dinolab job har` is for Human Action Recognition as it is downloaded.",
    positionals=(Positional("DATA", "labelled images: a folder of class folders, a CSV, shards or a dataset"),),
    options=(Own, OwnColumns),
    examples=("job photos budget=1h", "job labels.csv budget=30min unlabelled=more_photos"),
)

HAR = Verb(
    "Human Action Recognition: training, baselines, evaluation, speed, video, report",
    run_har,
    about="Train DINOv2 on Human Action Recognition, evaluate it beside its baselines, measure speed, and write the demo video and the "
    "report. The same command again continues where it stopped; finished stages are not repeated. Training options override the "
    "recipe har_SCALE.",
    positionals=(
        Positional("STAGE", f"some of {', '.join(STAGES)} (default all)", required=False, several=True, choices=STAGES),
    ),
    options=(Har,),
    training=True,
    examples=("job har data=archive.zip scale=smoke", "job har data=archive.zip out=runs/har evaluate report"),
)

JOB = Family(
    "a whole job, from images to table, report and video, by one command that resumes",
    lambda: {"har": HAR},
    "job",
    otherwise=OWN,
)
