"""The options that a run has set to something else than their defaults."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dinolab.config import as_word, flatten, to_dict
from dinolab.fields import options
from dinolab.options import Config
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
    """The options that differ from their default in any of the runs, or between the runs."""
    fields = {name: f for cfg in configs if cfg for name, f in options(type(cfg))}
    values = [flatten(to_dict(cfg)) if cfg else {} for cfg in configs]
    defaults = [flatten(to_dict(type(cfg)())) if cfg else {} for cfg in configs]
    rows = []
    for name, f in fields.items():
        texts = [as_word(v[name]) if name in v else "" for v in values]
        usual = [as_word(d[name]) if name in d else "" for d in defaults]
        known = {text for text, v in zip(texts, values) if name in v}
        if name not in PLACES and (texts != usual or len(known) > 1):
            rows.append(Setting(name, f.metadata["help"], next(filter(None, usual), ""), texts, len(set(texts)) == 1))
    return rows
