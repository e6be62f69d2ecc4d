"""A run's folder as the report reads it.

Reading never fails: what is missing stays empty, and a file that cannot be read becomes a sentence in `problems`.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dinolab.errors import UserError
from dinolab.evals.comparison import Comparison
from dinolab.options import Config
from dinolab.recipes import load_saved_config
from dinolab.report.evaluated import Evaluated, read_evaluated
from dinolab.rundir import Row, RunFolder
from dinolab.schemas import BENCHMARK, CARD, ENVIRONMENT, JOB, SPLIT, STAGE, Schema, read_object

Json = dict[str, Any]

WARNINGS = ("ALARM", "stopped:", "no k-NN while training")  # a line of log.txt that begins so is shown
STAMP = len("2026-01-31 12:00:00 ")  # characters before the text of a line
BROKEN_SHOWN = 5  # broken images that are named
JOB_FILES = ("official", "clip")  # words of a job that name files
EARLIER_JOB = {"job": "har", "title": "Human Action Recognition"}  # the job that wrote a recipe.json


class Compared(NamedTuple):
    """A comparison of encoders and the folder that holds it; the results of its encoders lie below."""

    folder: Path
    comparison: Comparison


@dataclass
class Run:
    """The contents of the folder of one run."""

    path: Path
    config: Config | None = None
    card: Json = field(default_factory=dict)  # model card
    environment: Json = field(default_factory=dict)
    job: Json = field(default_factory=dict)  # name, title, scale, options and named files of a job; empty without one
    split: Json = field(default_factory=dict)  # the images that a job trains and tests on
    metrics: list[Row] = field(default_factory=list)  # lines of metrics.jsonl, in steps that never decrease
    warnings: list[str] = field(default_factory=list)  # lines of log.txt
    results: list[Evaluated] = field(default_factory=list)
    comparisons: list[Compared] = field(default_factory=list)
    benchmarks: list[Json] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)  # SHA-256 by file name
    problems: list[str] = field(default_factory=list)  # files that could not be read, and why

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def step(self) -> int | None:
        """Step of the network in the folder."""
        return self.card.get("info", {}).get("step")

    def is_own(self, evaluated: Evaluated) -> bool:
        """Whether this run's network was evaluated, and not another that it is compared with."""
        info = self.card.get("info")
        if info and evaluated.info == info:  # under any name: the run may have moved since
            return True
        return Path(evaluated.encoder).resolve() == self.path.resolve()


def read_run(path: Path) -> Run:
    """Read everything that a run's folder holds.

    Raises:
        UserError: the folder does not exist, or holds nothing of a run.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name a run's folder")
    run, folder = Run(path), RunFolder(path)
    signs = (folder.config, folder.metrics, folder.card, folder.evaluations, folder.speed)
    if not any(sign.exists() for sign in signs):
        raise UserError(f"{path}: not a run's folder, it has none of {', '.join(sign.name for sign in signs)}")
    run.config = read_config(folder.config, run.problems)
    run.card = read_json(folder.card, run.problems, CARD)
    run.environment = read_json(folder.environment, run.problems, ENVIRONMENT)
    run.job = read_job(folder, run.problems)
    run.split = read_json(folder.split, run.problems, SPLIT) if run.job else {}
    run.metrics, problems = folder.read_metrics()
    run.problems += problems
    run.warnings = read_warnings(folder.log)
    run.results, run.comparisons = read_results(folder.evaluations, run.problems)
    found = (read_json(file, run.problems, BENCHMARK) for file in sorted(folder.speed.glob("*.json")))
    run.benchmarks = [content for content in found if is_table(content.get("rows"))]
    run.hashes = {file.name: sha256(file) for file in (folder.weights, folder.config) if file.is_file()}
    return run


def is_table(rows: Any) -> bool:
    return isinstance(rows, list) and bool(rows) and all(isinstance(row, dict) for row in rows)


def read_config(file: Path, problems: list[str]) -> Config | None:
    if not file.is_file():
        return None
    try:
        return load_saved_config(file)
    except UserError as error:
        problems.append(f"{file.name}: left out: {error}")
        return None


def read_json(file: Path, problems: list[str], schema: Schema | None = None) -> Json:
    """The object in the file; empty if there is no file, or if it is damaged."""
    if not file.is_file():
        return {}
    try:
        return read_object(file, schema)
    except UserError as error:
        problems.append(f"{file.parent.name}/{file.name}: left out: {error}")
        return {}


def read_job(folder: RunFolder, problems: list[str]) -> Json:
    """The contents of job.json, and under "files" the files that the user named, from the marks of the stages."""
    job = read_json(folder.job, problems, JOB)
    if not job:
        return {}
    marks = (read_json(file, problems, STAGE).get("with") for file in sorted(folder.stages.glob("*.json")))
    files = {word: mark[word] for mark in marks if isinstance(mark, dict) for word in JOB_FILES if mark.get(word)}
    return EARLIER_JOB | job | {"files": files}


def read_warnings(file: Path) -> list[str]:
    """Alarms, stops and broken images from log.txt; of the broken images the first few, and how many more."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    broken = [line for line in lines if line[STAMP:].startswith("broken image ")]
    more = [f"and {len(broken) - BROKEN_SHOWN:,} more broken images"] if len(broken) > BROKEN_SHOWN else []
    return [line for line in lines if line[STAMP:].startswith(WARNINGS)] + broken[:BROKEN_SHOWN] + more


def read_results(folder: Path, problems: list[str]) -> tuple[list[Evaluated], list[Compared]]:
    """All results and comparisons below the folder; a result that lies in two places counts once."""
    results: dict[str, Evaluated] = {}
    comparisons = []
    for file in sorted(folder.rglob("*.json"), key=lambda file: (len(file.parts), file)):
        content = read_json(file, problems)
        try:
            if is_table(content.get("encoders")):
                comparisons.append(Compared(file.parent, Comparison.from_json(content)))
            elif isinstance(content.get("encoder"), dict):
                found = read_evaluated(file)
                results.setdefault(found.identity, found)
        except UserError as error:
            problems.append(f"{file.parent.name}/{file.name}: left out: {error}")
    return list(results.values()), comparisons


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
