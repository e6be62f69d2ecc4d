"""dinolab job har."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from dinolab.cli.grammar import Family, Positional, Verb
from dinolab.cli.train import run_until_stopped
from dinolab.errors import say
from dinolab.fields import option
from dinolab.rundir import COMPARISON, RunFolder

STAGES = ("train", "baselines", "evaluate", "speed", "video", "report")  # of dinolab.jobs, which imports torch


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
    official: str = option("", "file of DINOv2 weights as published, evaluated beside the run")
    clip: str = option("", "video or folder of images for the demo video (empty: test images of all classes)")


def run_har(stages: list[str], own: Har, words: Sequence[str]) -> int:
    from dinolab.jobs import run_job
    from dinolab.jobs.table import print_table

    def work() -> None:
        out = run_job(
            own.data, own.out, own.scale, stages, official=own.official, clip=own.clip, options=words,
            progress=sys.stderr.isatty(),
        )  # fmt: skip
        folder = RunFolder(out)
        if (folder.evaluations / "all" / COMPARISON).is_file():
            print_table(out)
        made = [str(file) for file in (folder.report, folder.video) if file.is_file()]
        say(", ".join(made) or out)

    try:
        return run_until_stopped(work)
    except KeyboardInterrupt:  # outside of a training
        print("dinolab: stopped. Finished stages are kept; the same command continues from there.", file=sys.stderr)
        raise


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

JOB = Family("a whole job, from images to report and video, by one command that resumes", lambda: {"har": HAR}, "job")
