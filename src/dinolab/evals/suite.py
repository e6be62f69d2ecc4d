"""The evaluations of a paper on whatever lies under one root: `dinolab eval all suite=dino|dinov2|all root=DIR`.

Each evaluation says by itself which suites it belongs to and what it finds (`Evaluation.suites`, `Evaluation.find`); the rest is
the comparison of compare.py, with a column for each task in place of one data set for all.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from dinolab.errors import UserError, say
from dinolab.evals import EVALS
from dinolab.evals.compare import CompareOptions, Run, earlier_entries, failure, fingerprint
from dinolab.evals.comparison import Comparison, Entry, Row, main_facts
from dinolab.evals.contract import Task
from dinolab.evals.evaluate import find, make_folder, prepare
from dinolab.evals.plots import Published
from dinolab.evals.result import Json
from dinolab.evals.roots import opened
from dinolab.files import file_name

log = logging.getLogger(__name__)


class Planned(NamedTuple):
    """One column of the table."""

    evaluation: str  # its name in EVALS
    task: Task


def plan(options: CompareOptions, root: Path) -> tuple[dict[str, Planned], list[str]]:
    """What can be done, by the name of its column, and what is missing.

    A column is called EVALUATION, or EVALUATION:DATA where one evaluation has several tasks.
    """
    for name in options.evaluations:
        find(name)  # which refuses one that does not exist
    columns: dict[str, Planned] = {}
    missing: list[str] = []
    for name, evaluation in EVALS.items():
        wanted = bool(evaluation.suites) if options.suite == "all" else options.suite in evaluation.suites
        if not wanted or (options.evaluations and name not in options.evaluations):
            continue
        found = evaluation.find(root)
        missing += found.missing
        for task in found.tasks:
            columns[f"{name}:{task.name}" if task.name else name] = Planned(name, task)
    return columns, list(dict.fromkeys(missing))


def prepare_suite(
    options: CompareOptions, progress: bool, environment: Json | None, published: Published | None
) -> "SuiteRun":
    """Look for data sets, and say what is missing. Raises UserError where nothing is found or an option is missing."""
    if not (options.suite and options.root):
        raise UserError("suite and root belong together: suite=all root=DIR, where DIR holds data sets")
    if options.train or options.test:
        raise UserError(
            "train and test: a suite finds its images under root; leave them out, or leave out suite and root"
        )
    root = opened(options.root)
    columns, missing = plan(options, root)
    for one in missing:
        say(f"missing: {one}")
    if not columns:
        raise UserError(
            f"root={root}: nothing that suite={options.suite} needs is here; what is missing is listed above"
        )
    out = Path(options.out) if options.out else None
    if out:
        make_folder(out)
    data = {"train": str(root), "test": None, "suite": options.suite, "missing": missing}
    settings = {
        "evaluations": list(columns), "precision": options.precision, "seed": options.seed, "seeds": options.seeds
    }  # fmt: skip
    found = Comparison(data, settings, environment)
    evaluations = {column: EVALS[planned.evaluation] for column, planned in columns.items()}
    title = f"Suite {options.suite} on {root.resolve().name}"
    return SuiteRun(
        evaluations, options, [], out, earlier_entries(out), found, progress, title, published, columns
    )  # fmt: skip


@dataclass
class SuiteRun(Run):
    """A suite in progress."""

    columns: Mapping[str, Planned]

    def announce(self, row: Row) -> None:
        """Say how long the forward passes will take."""
        assert row.throughput
        speed = row.throughput["images_per_s"]
        parts = [f"{column} {minutes(planned.task.images / speed)}" for column, planned in self.columns.items()]
        images = sum(planned.task.images for planned in self.columns.values())
        say(
            f"{row.name}: {images:,} images at {speed:,.0f} images/s take about {minutes(images / speed)} "
            f"({', '.join(parts)}), without the training of layers and what is kept from earlier"
        )

    def entry(self, which: str, network: nn.Module, row: Row) -> Entry:
        evaluation, task = self.columns[which]
        folder = self.out / file_name(row.name) / file_name(which) if self.out else None
        options = self.options
        try:
            own = self.options_of(evaluation, task, folder)
            ready = prepare(evaluation, network, own, self.progress, self.found.environment, called=row.name)
            chosen = (which, row.size, options.precision, options.seed, options.seeds, sorted(task.options.items()))
            key = fingerprint(network, ready.data.sources, chosen)
            if key in self.earlier:
                return self.earlier[key]
            result = ready.run()
        except (UserError, RuntimeError, MemoryError) as error:
            log.warning("%s, %s: %s", row.name, which, failure(error))
            return Entry(failure=failure(error))
        return Entry(main_facts(result), folder=str(folder) if folder else None, key=key)

    def options_of(self, evaluation: str, task: Task, folder: Path | None) -> Any:
        """The evaluation's options: what was found, and what the suite's options share with it."""
        schema = EVALS[evaluation].Options
        shared = {f.name: getattr(self.options, f.name) for f in fields(schema) if hasattr(self.options, f.name)}
        return schema(**shared | task.options | {"out": str(folder) if folder else ""})


def minutes(seconds: float) -> str:
    """90 s as 1.5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
