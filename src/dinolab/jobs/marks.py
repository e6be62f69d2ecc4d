"""Marks of finished stages: a stage that is marked, and whose inputs are unchanged, is not done again."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dinolab.errors import UserError
from dinolab.files import write_whole
from dinolab.jobs.job import Job
from dinolab.jobs.stage import Stage, Stages
from dinolab.schemas import STAGE, read_object


def do_stage(job: Job, stages: Stages, name: str, title: str) -> None:
    """Do one stage, unless it is done, and print how long it took.

    Args:
        stages: all stages of the job, by name.
        name: of the one to do.
        title: how it is announced.

    Raises:
        UserError: a stage that it needs is not finished.
    """
    stage, file = stages[name], mark_of(job, name)
    if is_done(job, stages, name):
        took = in_words(read_json(file)["seconds"])
        print(
            f"{title}: finished before, in {took}; to repeat it, remove {file} and the results that should be made again"
        )
        return
    for needed in stage.needs:
        if not is_done(job, stages, needed):
            raise UserError(f"{name} needs {needed}, which is not finished: name no stages, or name {needed} too")
    print(f"{title} ...", flush=True)
    unfinished = file.with_suffix(".stopped")
    earlier = read_json(unfinished) if unfinished.is_file() else {}
    began = time.perf_counter(), cpu_seconds()

    def spent() -> dict[str, float]:
        seconds, cpu = time.perf_counter() - began[0], cpu_seconds() - began[1]
        return {
            "seconds": earlier.get("seconds", 0.0) + seconds,
            "cpu_seconds": earlier.get("cpu_seconds", 0.0) + cpu,
        }

    try:
        stage.work(job)
    except BaseException:
        write_whole(unfinished, json.dumps(spent()).encode())
        raise
    time_taken = spent()
    mark = {"finished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **time_taken, "with": inputs(job, stage)}
    write_whole(file, (json.dumps(mark, indent=2) + "\n").encode())
    unfinished.unlink(missing_ok=True)
    print(f"{title}: {in_words(time_taken['seconds'])}", flush=True)


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended, in seconds."""
    return sum(os.times()[:4])


def is_done(job: Job, stages: Stages, name: str) -> bool:
    """Whether the stage has finished, its products are there, and its inputs have not changed since."""
    stage, file = stages[name], mark_of(job, name)
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
