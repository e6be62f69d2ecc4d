"""The options that a run has set to something else than their defaults."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dinolab.config import as_word, flatten, to_dict
from dinolab.options import Config, options
from dinolab.report.sections.section import Page

PLACES = ("run.dir",)  # options that say where the run lies, not what it is


class Setting(NamedTuple):
    """One option that differs from its default in a run."""

    name: str
    help: str
    default: str
    values: list[str]  # one for each run; "" where the run's configuration is unknown
    same: bool  # in all runs


def build(page: Page) -> dict[str, Any]:
    return {"settings": settings([run.config for run in page.runs])}


def settings(configs: Sequence[Config | None]) -> list[Setting]:
    """The options that differ from their default in any of the runs."""
    defaults = flatten(to_dict(Config()))
    values = [flatten(to_dict(cfg)) if cfg else {} for cfg in configs]
    rows = []
    for name, f in options(Config):
        own = [v.get(name, defaults[name]) for v in values]
        if name not in PLACES and any(value != defaults[name] for value in own):
            texts = [as_word(v[name]) if v else "" for v in values]
            rows.append(Setting(name, f.metadata["help"], as_word(defaults[name]), texts, len(set(texts)) == 1))
    return rows
