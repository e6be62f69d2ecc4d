"""Marks of finished stages: a stage that is marked, and whose inputs are unchanged, is not done again."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dinolab.errors import UserError
from dinolab.files import write_whole
from dinolab.jobs.job import Job
from dinolab.jobs.stages import STAGES, Stage
from dinolab.rundir import STAGE, read_object


def do_stage(job: Job, name: str, title: str) -> None:
    """Do one stage, unless it is done, and print how long it took.

    Raises:
        UserError: a stage that it needs is not finished.
    """
    stage, file = STAGES[name], mark_of(job, name)
    if is_done(job, name):
        took = in_words(read_json(file)["seconds"])
        print(
            f"{title}: finished before, in {took}; to repeat it, remove {file} and the results that should be made again"
        )
        return
    for needed in stage.needs:
        if not is_done(job, needed):
            raise UserError(f"{name} needs {needed}, which is not finished: name no stages, or name {needed} too")
    print(f"{title} ...", flush=True)
    began = time.perf_counter()
    stage.work(job)
    seconds = time.perf_counter() - began
    mark = {"finished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "seconds": seconds, "with": inputs(job, stage)}
    write_whole(file, (json.dumps(mark, indent=2) + "\n").encode())
    print(f"{title}: {in_words(seconds)}", flush=True)


def is_done(job: Job, name: str) -> bool:
    """Whether the stage has finished, its products are there, and its inputs have not changed since."""
    stage, file = STAGES[name], mark_of(job, name)
    there = file.is_file() and all(product.exists() for product in stage.products(job))
    return there and read_json(file).get("with") == inputs(job, stage)


def inputs(job: Job, stage: Stage) -> dict[str, Any]:
    """When the stages finished whose results it uses, and the files that the user has named for it."""
    marks = {name: mark_of(job, name) for name in stage.after}
    times = {name: read_json(file).get("finished") if file.is_file() else None for name, file in marks.items()}
    return times | {word: getattr(job, word) for word in stage.words}


def mark_of(job: Job, name: str) -> Path:
    return job.folder.stages / f"{name}.json"


def read_json(file: Path) -> dict[str, Any]:
    """The mark in a file. Raises UserError where it is damaged."""
    try:
        return {"seconds": 0.0} | read_object(file, STAGE)
    except UserError as error:
        raise UserError(f"{error}; remove it") from error


def in_words(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
