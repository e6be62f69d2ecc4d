"""The result of a comparison of encoders, to and from all.json, also as earlier versions of dinolab wrote it."""

from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from types import NoneType
from typing import Any

from dinolab.errors import UserError
from dinolab.evals.earlier import result_from
from dinolab.evals.result import Json, Result
from dinolab.schemas import EACH, Schema, find_wrong, read_object

VERSION = 2  # of the JSON; files without a version are version 1
TEXT = (str, NoneType)
SPEED: Schema = {"images_per_s": float, "batch_size": int, "precision": str, "device": str}  # see throughput.py
ENCODER: Schema = {
    "name": str,
    "encoder": str,
    "results": {EACH: {"failure": TEXT, "folder": TEXT, "key": TEXT}},
    "size": ([int], NoneType),
    "dim": (int, NoneType),
    "throughput": (SPEED, NoneType),
    "parameters": (int, NoneType),
    "failure": TEXT,
}
FIELDS: Schema = {
    "data": {"train": str, "test": TEXT},
    "settings": {"evaluations": [str], "protocols": [str], "precision": str, "seed": int, "seeds": int},
    "encoders": [ENCODER],
}


@dataclass
class Entry:
    """One evaluation of one encoder: its result, or why there is none."""

    result: Result | None = None  # without what only result.json keeps: classes, leaks, facts of encoder and machine
    failure: str = ""
    folder: str | None = None  # where result.json lies
    key: str = ""  # hash of everything that the result depends on


@dataclass
class Row:
    """One encoder."""

    name: str  # short
    encoder: str  # as it was named
    results: dict[str, Entry] = field(default_factory=dict)  # by evaluation
    size: list[int] | None = None  # height and width of the images, in pixels
    dim: int | None = None
    throughput: Json | None = None  # see throughput.py
    parameters: int | None = None  # number of weights
    failure: str = ""  # why the encoder could not be opened

    @property
    def failures(self) -> list[str]:
        """Everything that went wrong, each with the names of the encoder and of the evaluation."""
        found = {"": self.failure} | {name: entry.failure for name, entry in self.results.items()}
        return [f"{self.name}{name and f', {name}'}: {failure}" for name, failure in found.items() if failure]


@dataclass
class Comparison:
    """Several encoders by several evaluations on the same data."""

    data: Json  # train, test: names of the sources; test is None where it is held out of train; the chosen options of Columns
    settings: Json  # evaluations, precision, seed, seeds
    environment: Json | None = None
    encoders: list[Row] = field(default_factory=list)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Json:
        """What a notebook shows: the table that the command line prints."""
        from dinolab.evals.comparison_table import table  # here: it builds on this file

        return table(self)._repr_mimebundle_(include, exclude)

    @property
    def evaluations(self) -> list[str]:
        return list(self.settings["evaluations"])

    def extended(self, name: str, result: Result) -> "Comparison":
        """With one more result, in the row of the encoder of this name. A row that has such a result keeps its own."""
        rows = list(self.encoders)
        n = next((n for n, row in enumerate(rows) if name in (row.name, row.encoder)), len(rows))
        row = rows[n] if n < len(rows) else Row(name, name)
        rows[n : n + 1] = [replace(row, results={result.evaluation: Entry(result)} | row.results)]
        names = list(dict.fromkeys([*self.evaluations, result.evaluation]))
        return replace(self, settings=self.settings | {"evaluations": names}, encoders=rows)

    def to_json(self) -> Json:
        """As `from_json` reads it."""
        content = {"version": VERSION, **asdict(self)}
        for row, plain in zip(self.encoders, content["encoders"]):
            for name, entry in row.results.items():
                plain["results"][name]["result"] = entry.result.to_json() if entry.result else None
        return content

    @staticmethod
    def from_json(content: Json) -> "Comparison":
        """Raises UserError for what is no comparison."""
        if found := find_wrong(content, FIELDS):
            raise UserError(f"not a comparison of dinolab's ({found})")
        try:
            rows = [read_row(row, content) for row in content["encoders"]]
            settings = dict(content["settings"])
            if "protocols" in settings:  # version 1
                settings["evaluations"] = settings.pop("protocols")
            needed = [(settings, ("evaluations", "seeds")), (content["data"], ("train", "test"))]
            for values, names in [*needed, *((row.throughput, SPEED) for row in rows if row.throughput)]:
                itemgetter(*names)(values)  # raises KeyError for a missing one
            return Comparison(dict(content["data"]), settings, content.get("environment"), rows)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"not a comparison of dinolab's ({type(error).__name__}: {error})") from error


def read_comparison(file: Path) -> Comparison:
    """The comparison in a file. Raises UserError where it cannot be read or is none."""
    content = read_object(file)
    try:
        return Comparison.from_json(content)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def read_row(row: Json, content: Json) -> Row:
    results = {name: read_entry(entry, row, content) for name, entry in row["results"].items()}
    return Row(**{**row, "results": results, "failure": row.get("failure") or ""})


def read_entry(entry: Json, row: Json, content: Json) -> Entry:
    facts: dict[str, Any] = {name: entry.get(name) or "" for name in ("failure", "key")}
    found = entry.get("result")
    if "version" not in content and not facts["failure"]:  # version 1 kept the facts of the result beside the folder
        found = {**entry, "encoder": {"name": row["name"]}, "data": content["data"]}
    return Entry(result_from(found) if found else None, folder=entry.get("folder"), **facts)


def main_facts(result: Result) -> Result:
    """The result without what grows with classes and images or repeats the model card."""
    encoder = {"name": result.encoder.get("name")}
    return replace(result, encoder=encoder, per_class={}, parts={}, leaks=[], environment=None)
