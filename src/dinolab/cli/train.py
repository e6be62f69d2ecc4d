"""dinolab train, plan and demo."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinolab.cli.parse import at_least, split_config
from dinolab.errors import UserError
from dinolab.options import Config, option_lines
from dinolab.recipes import load_config


def add(verbs: Any) -> None:
    train = verbs.add_parser(
        "train",
        help="pretrain DINO or DINOv2 on a folder of images; the same command again resumes",
        description="Pretrain on images. The same command again goes on where the run stopped, exactly.",
        epilog="options (key=value):\n" + "\n".join(option_lines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument(
        "config", nargs="?", metavar="CONFIG.yaml", help="a recipe: a file, or one of dinolab's own by name"
    )
    train.add_argument("options", nargs="*", metavar="key=value", help="options over the recipe; all are listed below")
    train.add_argument(
        "--resume", action="store_true", help="only go on, never start anew; CONFIG may be the run's folder"
    )
    train.add_argument("--show-schedules", action="store_true", help="draw the schedules into schedules.png and stop")
    train.set_defaults(verb=run_train)

    plan = verbs.add_parser(
        "plan",
        help="how long a run will take, how much memory, and what holds it up, from a few real steps",
        description="Take a few real steps, leave nothing behind, and say how long the run will take, how much memory, whether "
        "the loader or the device is the limit, and what to change. Options are those of train.",
    )
    plan.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="as for train")
    plan.add_argument("options", nargs="*", metavar="key=value", help="as for train; data.path=DIR is needed")
    plan.add_argument("--steps", type=at_least(1), default=20, help="steps that are measured (default 20)")
    plan.add_argument("--json", metavar="FILE", type=Path, help="also write all figures into this file")
    plan.set_defaults(verb=run_plan)

    demo = verbs.add_parser(
        "demo",
        help="train on the embedded digit scenes in a few minutes, and say what it learned",
        description="Train on scenes made of scikit-learn's handwritten digits and print k-NN accuracy on held-out digits "
        "for raw pixels, the network before training and the network after.",
    )
    demo.add_argument("folder", nargs="?", default="runs/demo", help="where everything goes (default runs/demo)")
    demo.set_defaults(verb=run_demo)


def run_train(args: argparse.Namespace) -> int:
    words = split_config(args)
    if args.resume and args.config and Path(args.config).is_dir():
        cfg = load_config(Path(args.config) / "config.yaml", [*words, f"run.dir={args.config}"])
    else:
        cfg = load_config(args.config, words)
    if args.show_schedules:
        return show_schedules(cfg, Path("schedules.png"))

    from dinolab.runs.train import train

    return run_until_stopped(lambda: train(cfg, resume=args.resume))


def run_until_stopped(work: Callable[[], object]) -> int:
    """Do the work; a signal that ends it, with the state saved, becomes the exit status."""
    from dinolab.parallel import rank
    from dinolab.training.loop import Interrupted

    try:
        work()
    except Interrupted as stop:
        if rank() == 0:
            print(f"dinolab: {stop}; saved. The same command goes on from here.", file=sys.stderr)
        return 128 + stop.signum
    return 0


def show_schedules(cfg: Config, out: Path) -> int:
    from dinolab.runs.build import open_data
    from dinolab.training.phases import plan_phases
    from dinolab.visuals.curves import plot_schedules

    phases = plan_phases(cfg, len(open_data(cfg, cache=None)))
    steps, every = phases[-1].last, max(1, phases[-1].last // 1000)
    lines = [
        {"step": step, **phase(step).figures}
        for phase in phases
        for step in range(phase.first, phase.last)
        if step % every == 0 or step == phase.last - 1
    ]
    plot_schedules(lines, out)
    print(
        f"{steps} steps, {phases[0].total} of them of {cfg.optim.batch_size}, {phases[0].steps_per_epoch:.1f} an epoch: {out}"
    )
    return 0


def run_plan(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from dinolab.plan import advice, plan, words

    options = split_config(args)
    cfg = load_config(args.config, options)
    if args.json and not args.json.parent.is_dir():
        raise UserError(f"--json {args.json}: there is no folder {args.json.parent}")
    made = plan(cfg, args.steps, say=lambda text: print(text, file=sys.stderr))
    print(words(made))
    if args.json:
        args.json.write_text(
            json.dumps({**asdict(made), "limit": made.pace.limit, "advice": advice(made)}, indent=2) + "\n"
        )
    return 0


def run_demo(args: argparse.Namespace) -> int:
    from dinolab.demo import demo

    return run_until_stopped(lambda: demo(Path(args.folder)))
