"""dinolab explore."""

from typing import Any

from dinolab.cli.grammar import Positional, Verb


def options() -> tuple[type, ...]:
    from dinolab.explore.options import ExploreOptions

    return (ExploreOptions,)


def run(models: list[str], own: Any) -> int:
    from dinolab.explore import run_explore

    run_explore(models, own)
    return 0


EXPLORE = Verb(
    "look at a set of images in the browser, as an encoder sees them",
    run,
    about="Open a page in the browser: a map of all images, the neighbours of each, similarity of its patches as you point at them, "
    "attention, PCA, two encoders side by side. Only this machine can reach it.",
    positionals=(
        Positional(
            "RUN_OR_MODEL", "one or two: a run's folder, a .pth file, hf:NAME, timm:NAME or `starter`", several=True
        ),
    ),
    options=options,
    examples=("explore runs/photos data=photos", "explore starter data=sets/heap export=page"),
)
