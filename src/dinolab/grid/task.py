"""One run of a grid: a row with a seed, trained and evaluated in this process, and the record of what it cost or why it failed."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType

from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.errors import UserError, reason
from dinolab.evals import splits
from dinolab.evals.evaluate import evaluate, find
from dinolab.files import write_whole
from dinolab.grid.read import Grid, Row
from dinolab.machine import environment
from dinolab.memory import can_measure, peak_memory
from dinolab.options import COLUMNS, Columns, Config
from dinolab.parallel import choose_device
from dinolab.precision import choose_precision, name_of
from dinolab.recipes import OptionOfOthers, load_config, validate
from dinolab.rundir import RESULT, RunFolder
from dinolab.runs.build import workers
from dinolab.runs.folder import check_run
from dinolab.runs.train import train
from dinolab.schemas import CARD, Schema, read_object
from dinolab.training.loop import Interrupted

EVALUATION_SEED = 0  # of every row: one split, and the same initial weights of linear layers
WAY_OUT = ". Put it into the rows of such methods, in a grid file of your own"
RECORD: Schema = {
    "failure": str,
    "steps": int,
    "cpu_seconds": float,
    "peak_memory": (int, NoneType),
    "images": ({"train": str, "test": (str, NoneType)}, NoneType),
}


@dataclass
class Record:
    """What a run has cost, over all attempts that this file knows of, and why it failed."""

    failure: str = ""
    steps: int = 0  # of training that the costs below cover; a process that was killed leaves its own out
    cpu_seconds: float = 0.0  # of training, with the processes that load images
    peak_memory: int | None = None  # bytes; None where it cannot be measured
    images: dict[str, str | None] | None = None  # names of the sources that the finished evaluations are of


@dataclass(frozen=True)
class Task:
    """A row with a seed."""

    row: Row
    seed: int
    cfg: Config
    evaluations: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.row.name}, seed {self.seed}"

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.cfg.run.dir))

    @property
    def record(self) -> Path:
        """The record, beside the run's folder, which a refused run does not have."""
        return self.folder.path.with_suffix(".json")

    @property
    def output(self) -> Path:
        """What the run's process prints."""
        return self.folder.path.with_suffix(".txt")

    def result(self, evaluation: str) -> Path:
        return self.folder.evaluations / evaluation / RESULT

    def read_record(self) -> Record:
        return Record(**read_object(self.record, RECORD)) if self.record.is_file() else Record()

    def write_record(self, record: Record) -> None:
        self.record.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.record, (json.dumps(asdict(record), indent=2) + "\n").encode())

    def is_done(self) -> bool:
        """Whether it is trained, and evaluated on the images that are named now."""
        there = all(self.result(name).is_file() for name in self.evaluations)
        return there and self.read_record().images == images(self.cfg)


def make_tasks(grid: Grid, words: Sequence[str], base: str, seeds: int, out: Path) -> list[Task]:
    """All runs, the first seed of every row before the second of any.

    Args:
        words: `key=value` of the user, which all rows have; a row's own words win over them.
        base: a recipe in place of the grid's.
        seeds: number of runs of each row.
        out: the grid's folder.

    Raises:
        UserError: a row's options are wrong, its folder holds a run with others, or it would be evaluated on other images than the
            first row.
    """
    refuse_folders(grid, words)
    tasks: list[Task] = []
    for number in range(seeds):
        for row in grid.rows:
            try:
                cfg = row_config(grid, row, words, base)
                cfg.seed += number
                cfg.run.dir = str(out / row.folder / f"seed{cfg.seed}")
                validate(cfg)
                refuse_other_options(cfg, out)
                if tasks:
                    refuse_other_images(cfg, tasks[0])
            except UserError as error:
                way_out = WAY_OUT if isinstance(error, OptionOfOthers) else ""
                raise UserError(f"row {row.name!r}: {error}{way_out}") from error
            tasks.append(Task(row, cfg.seed, cfg, grid.evaluations))
    return tasks


def row_config(grid: Grid, row: Row, words: Sequence[str], base: str) -> Config:
    """The options of a row's training. Of words that name the same option, the row's win, then the user's, then those of all rows."""
    return load_config(base or grid.base or None, [*grid.words, *words, *reference_images(words), *row.words])


def refuse_folders(grid: Grid, words: Sequence[str]) -> None:
    """Raises UserError for a word that names a run's folder: the grid does."""
    for where, given in [("", (*grid.words, *words)), *((f"row {row.name!r}: ", row.words) for row in grid.rows)]:
        for word in given:
            if word.partition("=")[0] == "run.dir":
                raise UserError(f"{where}{word}: the grid sets this option itself; out= names its folder")


def refuse_other_images(cfg: Config, first: Task) -> None:
    """Raises UserError where a row would be evaluated on other images or labels than the first one, so that they cannot be compared."""
    own, theirs = evaluated_on(cfg), evaluated_on(first.cfg)
    other = [f"{name}={value}" for name, value in own.items() if value != theirs.get(name)]
    if other:
        raise UserError(
            f"{', '.join(other)}: its figures would be of other images than those of {first.row.name}; give eval.train=, eval.test= and "
            "how their labels are read once, for all rows"
        )


def refuse_other_options(cfg: Config, out: Path) -> None:
    """Raises UserError where the folder holds a run that began with other options."""
    try:
        check_run(RunFolder(Path(cfg.run.dir)), cfg, resume=False)
    except UserError as error:
        raise UserError(
            f"{str(error).partition('. Give')[0]}. Give the same, or another folder than out={out}"
        ) from error


def reference_images(words: Sequence[str]) -> list[str]:
    """eval.train=, where only test images are named: the images that are trained on."""
    given = dict(word.partition("=")[::2] for word in words)
    return [f"eval.train={given['data.path']}"] if {"data.path", "eval.test"} <= given.keys() - {"eval.train"} else []


def evaluated_on(cfg: Config) -> dict[str, str | None]:
    """What the figures of a run depend on beside its network: the labelled images, and how they are read."""
    named, columns = images(cfg), labelled_columns(cfg)
    train = "eval.train" if cfg.eval.train else "data.path"
    return {train: named["train"], "eval.test": named["test"]} | {
        f"data.{name}": getattr(columns, name) for name in COLUMNS
    }


def labelled_columns(cfg: Config) -> Columns:
    """How the labelled images for training the classifier are read; data.images is the folder of data.path's images alone."""
    return replace(cfg.data, images="") if cfg.eval.train else cfg.data


def images(cfg: Config) -> dict[str, str | None]:
    """Names of the labelled images for training the classifier, and of the test images; None where these are held out."""
    return {"train": cfg.eval.train or cfg.data.path, "test": cfg.eval.test or None}


def open_labelled(cfg: Config) -> tuple[Source, Source | None]:
    """The sources that `images` names. Raises UserError where they have no labels."""
    named = images(cfg)
    option = "eval.train" if cfg.eval.train else "data.path"
    train = open_source(str(named["train"]), labelled_columns(cfg), need_labels=True, option=option)
    test = (
        open_source(cfg.eval.test, replace(cfg.data, images=""), need_labels=True, option="eval.test")
        if cfg.eval.test
        else None
    )
    return train, test


def check_images(cfg: Config) -> None:
    """Raises UserError where the images or their labels are missing, before any run; a split that is drawn is kept here."""
    if not (cfg.eval.train or cfg.data.path):
        raise UserError("data.path is not set: name a folder of images, a text file of paths or a CSV, data.path=DIR")
    train, test = open_labelled(cfg)
    if test is None:
        splits.held_out(train, 0, None, progress=False)


def do_task(task: Task) -> None:
    """Train and evaluate in this process, or go on where an earlier one stopped; write the record.

    Raises:
        Interrupted: after a signal; the state is saved.
        UserError: a mistake in the options or the data, NaN, too little memory. The record has the reason, as for any other error.
    """
    record = task.read_record()
    record.failure = ""
    try:
        train_and_measure(task, record)
        evaluate_run(task)
        record.images = images(task.cfg)
    except Interrupted:
        raise
    except Exception as error:
        record.failure = reason(error) if isinstance(error, UserError) else f"{type(error).__name__}: {reason(error)}"
        raise
    finally:
        task.write_record(record)


def train_and_measure(task: Task, record: Record) -> None:
    """Train, and add what that cost to the record."""
    device, before, cpu = choose_device(task.cfg.run.device), steps_done(task.folder), cpu_seconds()
    try:
        if can_measure(device):
            peak = peak_memory(lambda: train(task.cfg), device)
            record.peak_memory = max(peak, record.peak_memory or 0)
        else:
            train(task.cfg)
    finally:
        steps = steps_done(task.folder) - before
        if steps > 0:  # not where a finished run was only looked at
            record.steps += steps
            record.cpu_seconds += cpu_seconds() - cpu


def evaluate_run(task: Task) -> None:
    """Run the evaluations, all with the same seed and on the same images; features that they share are computed once."""
    cfg, device = task.cfg, choose_device(task.cfg.run.device)
    train_images, test_images = open_labelled(cfg)
    with TemporaryDirectory(prefix="features-", dir=task.folder.path) as cache:
        for name in sorted(task.evaluations, key=lambda name: not find(name).runs_first):
            evaluate(
                name, task.folder.path, train_images, test_images, task.folder.evaluations / name,
                seed=EVALUATION_SEED, size=str(cfg.eval.size or ""), device=device, workers=workers(cfg, device),
                precision=name_of(choose_precision(cfg.run.precision, device)), cache=cache, environment=environment(),
                called=task.name,
            )  # fmt: skip


def steps_done(folder: RunFolder) -> int:
    """Steps of training behind the weights in a run's folder."""
    return read_object(folder.card, CARD).get("info", {}).get("step", 0) if folder.card.is_file() else 0


def cpu_seconds() -> float:
    """CPU time of this process, and of the processes that it has started and that have ended."""
    return sum(os.times()[:4])
