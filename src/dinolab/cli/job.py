"""dinolab recipe."""

import argparse
import sys
from typing import Any

from dinolab.cli.train import run_until_stopped

WORDS = ("data", "out", "scale", "official", "clip")


def add(verbs: Any) -> None:
    recipe = verbs.add_parser(
        "recipe",
        help="a whole job: Human Action Recognition from images to report and video",
        description="Train DINOv2 on Human Action Recognition, evaluate it beside its baselines, measure speed, and write the demo "
        "video and the report. The same command again goes on where it stopped; what is done is not done again.",
        epilog="""words:
  data=PATH       the set as downloaded from Kaggle (a folder or a zip), or a Hugging Face copy (a folder, or hf:NAME)
  out=DIR         the job's folder (default runs/har)
  scale=SCALE     smoke (8 minutes on 2 CPU cores), small, or full (ViT-S/8 at 224 pixels on a GPU; the default)
  official=FILE   DINOv2 weights as Meta published them, evaluated beside
  clip=FILE       video or folder of images for the demo video (default: test images of all classes)
  KEY=VALUE       any option of dinolab train, over configs/har_SCALE.yaml
stages (default: all):
  train baselines evaluate speed video report""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recipe.add_argument("name", choices=("har",), help="har: Human Action Recognition")
    recipe.add_argument("options", nargs="*", metavar="WORD|STAGE", help="key=value, and names of stages")
    recipe.set_defaults(verb=run_recipe)


def run_recipe(args: argparse.Namespace) -> int:
    from dinolab.jobs import recipe
    from dinolab.jobs.table import print_table

    own, options, stages = {"data": ""}, [], []
    for word in args.options:
        key, equals, value = word.partition("=")
        if not equals:
            stages.append(word)
        elif key in WORDS:
            own[key] = value
        else:
            options.append(word)

    def work() -> None:
        out = recipe(**own, stages=stages, options=options, progress=sys.stderr.isatty())
        if (out / "eval" / "all" / "all.json").is_file():
            print_table(out)
        made = [str(out / name) for name in ("report.html", "video.mp4") if (out / name).is_file()]
        print(", ".join(made) or out)

    try:
        return run_until_stopped(work)
    except KeyboardInterrupt:  # outside of a training
        print("dinolab: stopped. Finished stages are kept; the same command goes on from there.", file=sys.stderr)
        raise
