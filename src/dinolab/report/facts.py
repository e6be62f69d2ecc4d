"""What a run's folder says of itself. Reading never fails: what is missing stays empty, what is broken becomes a problem in words."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dinolab.errors import UserError
from dinolab.evals.evaluate import PROTOCOLS
from dinolab.options import Config
from dinolab.recipes import load_config

Json = dict[str, Any]

SIGNS = ("config.yaml", "metrics.jsonl", "model.json", "eval", "speed")  # any of them makes a folder a run's
WARNINGS = ("ALARM", "stopped:", "no k-NN while training")  # what a line of log.txt worth showing has in it
NAMED = {"official": "evaluate", "clip": "video"}  # files that a job's user names for a stage
BROKEN_SHOWN = 5  # broken images that are named, of all


@dataclass
class Result:
    """One evaluation, as evals/results.py writes it."""

    folder: Path  # where its predictions.csv lies, if there is one
    content: Json

    @property
    def encoder(self) -> str:
        return str(self.content["encoder"].get("name", "?"))

    @property
    def kind(self) -> str:
        """The protocol's word on the command line, or its name if it has none there."""
        name = str(self.content["protocol"].get("name", "?"))
        return next((word for word, known in PROTOCOLS.items() if known == name), name)

    @property
    def info(self) -> Json:
        """What the encoder's model.json said of how it was made."""
        found = self.content["encoder"].get("info")
        return found if isinstance(found, dict) else {}

    @property
    def is_untrained(self) -> bool:
        """Whether it began with initial weights: fine-tuned, it is the supervised network."""
        return "untrained" in self.info

    @property
    def words(self) -> str:
        """The protocol in a word or two."""
        return {"knn": "k-NN", "logreg": "logistic regression", "linear": "linear"}.get(self.kind, self.kind)

    @property
    def accuracy(self) -> float | None:
        found = self.content.get("accuracy")
        return found if isinstance(found, int | float) else None

    @property
    def interval(self) -> tuple[float, float] | None:
        found = self.content.get("interval")
        return (found[0], found[1]) if isinstance(found, list) and len(found) == 2 else None

    @property
    def data(self) -> Json:
        """What it learned from and was asked of."""
        found = self.content.get("data")
        return found if isinstance(found, dict) else {}

    @property
    def leaks(self) -> list[Any]:
        """Test images that are training images, too."""
        found = self.content.get("leaks")
        return found if isinstance(found, list) else []

    @property
    def per_class(self) -> dict[str, Json]:
        found = self.content.get("per_class")
        classes = found.items() if isinstance(found, dict) else ()
        return {name: of for name, of in classes if isinstance(of, dict) and {"accuracy", "images"} <= of.keys()}


class Comparison(NamedTuple):
    """Several encoders side by side, as evals/compare.py writes it."""

    folder: Path  # its results lie below
    content: Json


@dataclass
class Run:
    """A run's folder, read."""

    folder: Path
    config: Config | None = None
    card: Json = field(default_factory=dict)  # model.json
    environment: Json = field(default_factory=dict)
    job: Json = field(default_factory=dict)  # what `dinolab recipe` was told
    split: Json = field(default_factory=dict)  # its data/split.json
    metrics: list[Json] = field(default_factory=list)  # lines of metrics.jsonl, in steps that never go back
    warnings: list[str] = field(default_factory=list)  # lines of log.txt
    results: list[Result] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    benchmarks: list[Json] = field(default_factory=list)  # what `dinolab bench` wrote
    hashes: dict[str, str] = field(default_factory=dict)  # file name: SHA-256
    problems: list[str] = field(default_factory=list)  # files that could not be read, and why

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def step(self) -> int | None:
        """Step of the network in the folder."""
        return self.card.get("info", {}).get("step")

    def is_own(self, result: Result) -> bool:
        """Whether it was this run's network that was evaluated, not one that it is compared with."""
        info = self.card.get("info")
        if info and result.content["encoder"].get("info") == info:  # under whatever name: the run may have moved since
            return True
        return Path(result.encoder).resolve() == self.folder.resolve()


def read_run(folder: Path) -> Run:
    """Raises UserError if this is no run's folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a run's")
    if not any((folder / sign).exists() for sign in SIGNS):
        raise UserError(f"{folder}: not a run's folder, it has none of {', '.join(SIGNS)}")
    run = Run(folder)
    run.config = read_config(folder / "config.yaml", run.problems)
    run.card = read_json(folder / "model.json", run.problems)
    run.environment = read_json(folder / "environment.json", run.problems)
    run.job = read_job(folder, run.problems)
    run.split = read_json(folder / "data" / "split.json", run.problems) if run.job else {}
    run.metrics = read_metrics(folder / "metrics.jsonl", run.problems)
    run.warnings = read_warnings(folder / "log.txt")
    run.results, run.comparisons = read_results(folder / "eval", run.problems)
    found = (read_json(path, run.problems) for path in sorted((folder / "speed").glob("*.json")))
    run.benchmarks = [content for content in found if is_table(content.get("rows"))]
    run.hashes = {name: sha256(folder / name) for name in ("model.safetensors", "config.yaml") if is_file(folder, name)}
    return run


def is_file(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def is_table(rows: Any) -> bool:
    return isinstance(rows, list) and bool(rows) and all(isinstance(row, dict) for row in rows)


def read_config(path: Path, problems: list[str]) -> Config | None:
    if not path.is_file():
        return None
    try:
        return load_config(path)
    except UserError as error:
        problems.append(f"{path.name}: left out: {error}")
        return None


def read_json(path: Path, problems: list[str]) -> Json:
    """The object in the file; empty if there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path.parent.name}/{path.name}: left out, not valid JSON: {error}")
        return {}
    return content if isinstance(content, dict) else {"items": content}


def read_job(folder: Path, problems: list[str]) -> Json:
    """recipe.json, and what else was said to `dinolab recipe`, which the stages' marks know; empty if it is no job's folder."""
    job = read_json(folder / "recipe.json", problems)
    for word, stage in NAMED.items() if job else ():
        mark = read_json(folder / "stages" / f"{stage}.json", problems).get("with")
        job[word] = mark.get(word) if isinstance(mark, dict) else ""
    return job


def read_metrics(path: Path, problems: list[str]) -> list[Json]:
    """A resumed run repeats the steps since its checkpoint: the later lines count."""
    rows: list[Json] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            step = float(row["step"])
        except (ValueError, KeyError, TypeError):
            problems.append(f'{path.name}, line {number}: left out, not a JSON object with a number "step"')
            continue
        while rows and rows[-1]["step"] > step:
            rows.pop()
        rows.append(row)
    return rows


def read_warnings(path: Path) -> list[str]:
    """Alarms, stops and broken images; of these the first few, and how many more."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    broken = [line for line in lines if " broken image " in line]
    more = [f"and {len(broken) - BROKEN_SHOWN:,} more broken images"] if len(broken) > BROKEN_SHOWN else []
    return [line for line in lines if any(sign in line for sign in WARNINGS)] + broken[:BROKEN_SHOWN] + more


def read_results(folder: Path, problems: list[str]) -> tuple[list[Result], list[Comparison]]:
    """All below the folder; the same result in two places once."""
    results: dict[str, Result] = {}
    comparisons = []
    for path in sorted(folder.rglob("*.json"), key=lambda path: (len(path.parts), path)):
        content = read_json(path, problems)
        if isinstance(content.get("protocol"), dict) and isinstance(content.get("encoder"), dict):
            encoder = content["encoder"]
            of = [
                encoder.get("info") or encoder.get("name"),
                content["protocol"],
                content.get("accuracy"),
                content.get("data"),
            ]
            results.setdefault(json.dumps(of, sort_keys=True), Result(path.parent, content))
        elif is_table(content.get("encoders")) and isinstance(content.get("settings"), dict):
            comparisons.append(Comparison(path.parent, content))
    return list(results.values()), comparisons


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
