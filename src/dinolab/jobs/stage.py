"""The stages of a job, and the work that the stages of several jobs share."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinolab.files import write_whole
from dinolab.jobs.job import Job
from dinolab.jobs.plan import FINETUNING
from dinolab.machine import environment
from dinolab.parallel import choose_device
from dinolab.rundir import RESULT, RunFolder
from dinolab.schemas import CARD, STAGE, read_object
from dinolab.weights.load import load


class Stage(NamedTuple):
    """A part of the job that is done as a whole or continued."""

    work: Callable[[Any], None]
    products: Callable[[Any], tuple[Path, ...]]
    needs: tuple[str, ...] = ()  # stages without which it cannot be done
    after: tuple[str, ...] = ()  # stages whose results it uses: when they are repeated, so is this one
    words: tuple[str, ...] = ()  # fields of the job that it uses, with the same effect
    packages: tuple[str, ...] = ()


Stages = Mapping[str, Stage]


def finetune(job: Job, encoder: RunFolder, out: Path, epochs: int, called: str | None = None) -> None:
    """Fine-tune an encoder, unless its result is there. `called` is the name that the result gives to the encoder."""
    from dinolab.evals.evaluate import evaluate

    if not is_of(out, encoder):
        evaluate(
            FINETUNING, encoder.path, str(job.split.train), str(job.split.test), out, epochs=epochs, called=called,
            environment=environment(), **job.features(),
        )  # fmt: skip


def is_of(evaluation: Path, encoder: RunFolder) -> bool:
    """Whether the evaluation is complete, and of the encoder that is there now."""
    result = evaluation / RESULT  # the last file of an evaluation that is written
    if not result.is_file():
        return False
    found = read_object(result, {"encoder": {}}).get("encoder", {})
    return found.get("info") == read_object(encoder.card, CARD).get("info")


def make_video(job: Job, network: str | Path, title: str, clip: str = "", each: int = 2) -> None:
    """Write the demo video of a network.

    Args:
        network: what `dinolab.load` takes.
        clip: a video or a folder of images; empty takes `each` test images of every class.
    """
    from dinolab.jobs.classifier import classifier, clip_of
    from dinolab.visuals.action_video import action_video

    encoder = load(network, choose_device(job.usual().run.device))
    classify, classes = classifier(job, encoder)
    photos = {} if clip else clip_of(job.split.test, each)
    frames, labels = clip or list(photos), list(photos.values())
    shown = f"{title}, {encoder.backbone.describe()}" if hasattr(encoder, "backbone") else title
    action_video(encoder, classify, classes, frames, job.folder.video, shown, labels=labels, progress=job.progress)


def write_stages(job: Job, names: Sequence[str], title: str, conclusion: str) -> None:
    """Write how long each stage took among the benchmarks that the report shows.

    Args:
        names: of the stages.
        conclusion: a sentence below the table.
    """
    marks = {name: job.folder.stages / f"{name}.json" for name in names}
    rows = [
        {"stage": name, "minutes": read_object(file, STAGE).get("seconds", 0) / 60}
        for name, file in marks.items()
        if file.is_file()
    ]
    content = {"title": title, "conclusion": conclusion, "rows": rows}
    job.folder.speed.mkdir(exist_ok=True)
    write_whole(job.folder.speed / "stages.json", (json.dumps(content, indent=2) + "\n").encode())
