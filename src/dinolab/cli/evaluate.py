"""dinolab eval, by one evaluation or by several, and dinolab embed."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape

from dinolab.cli.grammar import Family, Positional, Verb
from dinolab.errors import UserError, printable, say
from dinolab.fields import options
from dinolab.files import file_name
from dinolab.rundir import RunFolder

ENCODER = Positional("RUN_OR_MODEL", "a run's folder, a .pth file, hf:NAME, timm:NAME, starter, or the baseline pixels")


def evaluations() -> dict[str, Verb | Family]:
    """A verb for each evaluation, and one for several of them."""
    from dinolab.evals import EVALS
    from dinolab.evals.compare import CompareOptions

    verbs = {name: describe(name, evaluation) for name, evaluation in EVALS.items()}
    every = Verb(
        "several encoders by several evaluations, with table and plots",
        run_all,
        about="Evaluate encoders side by side, and measure how many images a second each of them takes.",
        positionals=(ENCODER,),
        options=(CompareOptions,),
        examples=(
            "eval all runs/photos against=pixels,untrained train=labelled",
            "eval all runs/photos suite=dinov2 root=datasets",
        ),
    )
    return {**verbs, "all": every}


def describe(name: str, evaluation: Any) -> Verb:
    needed = [f"{key}=DIR" for key, f in options(evaluation.Options) if f.metadata.get("required")]
    needed = needed or ["data=DIR"]  # either data= or train= is needed
    return Verb(
        evaluation.title,
        partial(run_eval, name),
        about=evaluation.about,
        positionals=(ENCODER,),
        options=(evaluation.Options,),
        examples=(" ".join(["eval", name, "runs/photos", *needed]),),
    )


def run_eval(name: str, encoder: str, own: Any) -> int:
    from rich.console import Console

    from dinolab.evals import EVALS
    from dinolab.evals.evaluate import run_evaluation
    from dinolab.evals.results import table
    from dinolab.machine import environment

    out = choose_out(encoder, own, name)
    result = run_evaluation(name, encoder, own, progress=sys.stderr.isatty(), environment=environment())
    if any(one.main for one in (result, *result.tests)):
        Console().print(table(result, EVALS[name]))
    say(f"{out}: {', '.join(sorted(file.name + '/' * file.is_dir() for file in out.iterdir()))}")
    return 0


def run_all(encoder: str, own: Any) -> int:
    from rich.console import Console

    from dinolab.evals.compare import run_comparison
    from dinolab.evals.comparison_table import notes, table
    from dinolab.machine import environment
    from dinolab.report.published import beside, points

    out = choose_out(encoder, own, f"all-{own.suite}" if own.suite else "all")
    found = run_comparison(
        encoder, own, progress=sys.stderr.isatty(), environment=environment(), published=points
    )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table(found))
    say(*notes(found))
    if own.suite:
        for published in beside(found):
            console.print(as_rich(published))
    say(f"{out}: all.json, table.md, accuracy.png, scaling.png; ENCODER/EVALUATION: result.json, ...")
    return 0


def as_rich(published: Any) -> Any:
    """A table of the report for the terminal; the user's own rows are on top."""
    from rich.table import Table

    title = f"{published.title} ({published.note})"
    shown = Table(title=escape(title), title_justify="left", show_edge=False)
    for heading in published.headings:
        shown.add_column(escape(heading))
    for number, row in enumerate(published.rows, 1):
        shown.add_row(*(escape(printable(cell.text)) for cell in row), end_section=number == published.own)
    return shown


def choose_out(encoder: str, own: Any, name: str) -> Path:
    """The folder for results, which is also written into the options."""
    out = Path(own.out) if own.out else default_out(encoder) / name
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out}: is a file; name a folder")
    own.out = str(out)
    return out


def default_out(encoder: str) -> Path:
    """Results of a run go into its folder; others into a folder of their name."""
    run = Path(encoder)
    return RunFolder(run).evaluations if run.is_dir() else Path("runs/eval") / file_name(run.name)


def embed_options() -> tuple[type, ...]:
    from dinolab.features.options import EmbedOptions

    return (EmbedOptions,)


def run_embed(encoder: str, own: Any) -> int:
    from dinolab.features.embed import run_embed as embed

    if not own.out:
        raise UserError("out is not set: name a file to write, NAME.npz")
    found = embed(encoder, own, progress=sys.stderr.isatty())
    images, width = found["cls"].shape
    say(f"{own.out}: {images:,} images, {width} features each, {len(found['classes'])} classes")
    return 0


EVAL = Family(
    "how good an encoder's features are",
    evaluations,
    "evaluation",
    examples=("eval knn runs/photos train=labelled",),
)

EMBED = Verb(
    "write the features of images to an .npz file",
    run_embed,
    about="Write cls, labels (numbers in classes, -1 without), classes and names into an .npz file.",
    positionals=(ENCODER,),
    options=embed_options,
    examples=("embed runs/photos data=photos out=photos.npz",),
)
