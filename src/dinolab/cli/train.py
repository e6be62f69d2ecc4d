"""dinolab train, plan and demo."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinolab.cli.grammar import Positional, Verb
from dinolab.errors import UserError, say
from dinolab.fields import option
from dinolab.files import write_whole
from dinolab.options import Config
from dinolab.rundir import RunFolder

CONFIG = Positional("CONFIG", "a recipe: a YAML file, or one of dinolab's own by name", required=False)


@dataclass
class Train:
    resume: bool = option(False, "only continue a run, never start one; CONFIG may then be the run's folder")
    show_schedules: bool = option(False, "draw the schedules into schedules.png and stop")


@dataclass
class Plan:
    steps: int = option(20, "training steps that are measured", 1)
    json: str = option("", "file that all figures are also written to")
    on: str = option("", "a machine that is not here, such as 8xH100: a forecast on paper, without measuring anything")
    images: int = option(0, "with on=: number of training images (0: count those of data.path)", 0)
    use: float = option(0.0, "with on=: share of the devices' FLOP/s that a step reaches (0: 0.35)", 0, 1)


def run_train(config: str | None, own: Train, words: Sequence[str]) -> int:
    cfg = read_config(config, own.resume, words)
    if own.show_schedules:
        return show_schedules(cfg, Path("schedules.png"))

    from dinolab.runs.train import train

    return run_until_stopped(lambda: train(cfg, resume=own.resume))


def read_config(config: str | None, resume: bool, words: Sequence[str]) -> Config:
    """The options of a training from a recipe, or from a run's folder. Raises UserError for any other folder."""
    from dinolab.recipes import load_config, load_saved_config

    if not config or not Path(config).is_dir():
        if resume and config and len(Path(config).parts) > 1 and not Path(config).exists():
            raise UserError(f"{config}: no such run to resume")
        return load_config(config, words)
    if not resume:
        raise UserError(
            f"{config}: CONFIG is a YAML file; write data.path={config} to train on its images, or resume=true to continue a run"
        )
    return load_saved_config(RunFolder(Path(config)).config, [*words, f"run.dir={config}"])


def run_until_stopped(work: Callable[[], object]) -> int:
    """Do the work; a signal that ends it, after the state is saved, becomes the exit status."""
    from dinolab.parallel import rank
    from dinolab.training.loop import Interrupted

    try:
        work()
    except Interrupted as stop:
        if rank() == 0:
            print(f"dinolab: {stop}", file=sys.stderr)
        return 128 + stop.signum
    return 0


def show_schedules(cfg: Config, out: Path) -> int:
    from dinolab.runs.build import open_data
    from dinolab.runs.pictures import panels_of
    from dinolab.training.phases import plan_phases
    from dinolab.visuals.curves import plot_schedules

    phases = plan_phases(cfg, len(open_data(cfg, cache=None)))
    steps, every = phases[-1].last, max(1, phases[-1].last // 1000)
    lines = [
        {"step": step, **phase(step).figures}
        for phase in phases
        for step in sorted({*range(-(-phase.first // every) * every, phase.last, every), phase.last - 1})
    ]
    plot_schedules(lines, out, panels_of(cfg))
    say(f"{out}: {steps:,} steps; an epoch is {phases[0].steps_per_epoch:.1f} steps of {cfg.optim.batch_size} images")
    return 0


def run_plan(config: str | None, own: Plan, words: Sequence[str]) -> int:
    from dataclasses import asdict

    from dinolab.plan import advice, plan
    from dinolab.plan import words as in_words
    from dinolab.recipes import load_config

    cfg = load_config(config, words)
    file = Path(own.json)
    if own.json and not file.parent.is_dir():
        raise UserError(f"json={file}: there is no folder {file.parent}")
    if own.on:
        return run_on_paper(cfg, own)
    if own.images or own.use:
        raise UserError("images= and use= belong to on=, a forecast for a machine that is not here")
    made = plan(cfg, own.steps, say=lambda text: print(text, file=sys.stderr))
    say(*in_words(made).split("\n"))
    write_figures(own.json, {**asdict(made), "limit": made.pace.limit, "advice": advice(made)})
    return 0


def run_on_paper(cfg: Config, own: Plan) -> int:
    from dataclasses import asdict

    from dinolab.plan.paper import USE, paper_words, plan_on_paper

    paper = plan_on_paper(cfg, own.on, own.images, own.use or USE)
    say(*paper_words(paper).split("\n"))
    write_figures(own.json, {"on_paper": True, **asdict(paper)})
    return 0


def write_figures(file: str, content: dict) -> None:
    """Write JSON into the file, if one is named."""
    import json

    if file:
        write_whole(Path(file), (json.dumps(content, indent=2) + "\n").encode())


def run_demo(folder: str | None) -> int:
    from dinolab.demo import demo

    return run_until_stopped(lambda: demo(Path(folder or "runs/demo")))


TRAIN = Verb(
    "train on a folder of images; the same command again resumes",
    run_train,
    about="Train an encoder on images. The same command again continues, bit for bit, where the run stopped.",
    positionals=(CONFIG,),
    options=(Train,),
    training=True,
    examples=(
        "train dinov2_vits16 data.path=photos run.dir=runs/photos optim.batch_size=32",
        "train runs/photos resume=true",
    ),
)

PLAN = Verb(
    "predict a run's time, memory and bottleneck from a few real steps",
    run_plan,
    about="Take a few real training steps, leave nothing behind, and print how long the run will take, how much memory it needs, "
    "whether the loader or the device is the bottleneck, and what to change. With on= it is a forecast on paper for another machine.",
    positionals=(CONFIG,),
    options=(Plan,),
    training=True,
    examples=(
        "plan dinov2_vits16 data.path=photos steps=40",
        "plan dinov2_vits16 on=8xH100 images=1281167",
    ),
)

DEMO = Verb(
    "train on the embedded digit scenes in a few minutes, and print what it gained",
    run_demo,
    about="Train on scenes made of scikit-learn's handwritten digits, then print the k-NN accuracy on held-out digits for raw pixels, "
    "for the network before training and for the network after it.",
    positionals=(Positional("FOLDER", "where everything is written (default runs/demo)", required=False),),
)
