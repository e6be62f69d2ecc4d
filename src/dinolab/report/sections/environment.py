"""The environment: machine and versions that the training ran with."""

from typing import Any

from dinolab.config import as_word
from dinolab.report.run import Run
from dinolab.report.sections.section import Page
from dinolab.report.tables import side_by_side

ELSEWHERE = ("packages", "images", "names_crc32", "data", "curation", "time")  # keys that are shown in another place


def build(page: Page) -> dict[str, Any]:
    return {"facts_of": side_by_side([environment(run) for run in page.runs])}


def environment(run: Run) -> dict[str, str]:
    facts = {key: value for key, value in run.environment.items() if key not in ELSEWHERE}
    facts |= {"training began": run.environment.get("time")}
    facts |= run.environment.get("packages") or {}
    return {key: as_word(value) for key, value in facts.items() if value is not None}
