"""The reference job: Human Action Recognition from images to report and video, by one command that resumes."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dinolab import parallel
from dinolab.errors import UserError
from dinolab.files import write_whole
from dinolab.jobs.job import Job
from dinolab.jobs.scales import SCALES
from dinolab.jobs.split import prepare
from dinolab.jobs.stages import STAGES, Stage
from dinolab.recipes import load_config
from dinolab.runs.folder import hold

__all__ = ["SCALES", "STAGES", "recipe"]

OWN = ("data.path", "data.images", "eval.train", "eval.test", "run.dir", "method")  # options that the job sets itself
EXTRAS = {"timm": "timm", "av": "video"}  # packages that stages need: the extra that brings them


def recipe(
    data: str,
    out: str | Path = "runs/har",
    scale: str = "full",
    stages: Sequence[str] = (),
    *,
    official: str = "",
    clip: str = "",
    options: Sequence[str] = (),
    progress: bool = False,
) -> Path:
    """Train DINOv2 on Human Action Recognition, evaluate it beside its baselines, measure speed, write video and report.

    A finished stage is not done again, one that was stopped goes on: call this again with the same arguments.

    Args:
        data: the set as downloaded, see `recipe.copies`; the same images may move.
        out: the job's folder, which is also the folder of the DINOv2 run.
        scale: "smoke", "small" or "full", see `recipe.scales` and configs/har_SCALE.yaml.
        stages: some of STAGES; by default all of them, in their order.
        official: weights as Meta published them, evaluated beside.
        clip: video, or folder of images, for the demo video; by default test images of all classes.
        options: `key=value` words over the scale's configuration.

    Returns:
        The job's folder.

    Raises:
        UserError: anything that the user can mend; what is done by then is kept.
    """
    for what, given, known in (("scale", [scale], SCALES), ("stage", stages, STAGES)):
        for word in given:
            if word not in known:
                hint = f"; did you mean data={word}?" if what == "stage" and Path(word).exists() else ""
                raise UserError(f"{what} {word!r} is not one of {', '.join(known)}{hint}")
    names = [name for name in STAGES if name in stages or not stages]
    out = Path(out)
    check_options(options)
    check_files(official=official, clip=clip)
    check_packages(names)
    load_config(f"har_{scale}", options)  # which refuses what it does not know, before anything is done
    of_results = sorted(word for word in options if not word.startswith(("run.", "eval.")))
    keep_settings(out, {"recipe": "har", "scale": scale, "options": of_results})

    with hold(out / "stages"):
        split = prepare(data, out, SCALES[scale].most, progress)
        say_split(split.facts)
        job = Job(out, scale, tuple(options), split, official, clip, progress)
        for number, name in enumerate(names, 1):
            carry_out(job, name, f"[{number}/{len(names)}] {name}")
    return out


def check_options(options: Sequence[str]) -> None:
    for word in options:
        if word.partition("=")[0] in OWN:
            raise UserError(f"{word}: the job sets this option itself; data= names the images, out= the folder")


def check_files(**named: str) -> None:
    parallel.refuse_many("dinolab recipe")
    for word, path in named.items():
        if path and not path.startswith(("hf:", "timm:")) and not Path(path).exists():
            raise UserError(f"{word}={path}: no such file")


def check_packages(names: Sequence[str]) -> None:
    """Better before the training than after it."""
    missing = {package for name in names for package in STAGES[name].packages if find_spec(package) is None}
    if missing:
        extras = ",".join(sorted(EXTRAS[package] for package in missing))
        raise UserError(f"{' and '.join(sorted(missing))} is missing: pip install 'dinolab[{extras}]'")


def keep_settings(out: Path, settings: dict[str, Any]) -> None:
    """Refuses to go on with other settings than the folder began with; it has begun when its data is prepared."""
    file = out / "recipe.json"
    if not file.is_file() and out.is_dir() and any(out.iterdir()):
        raise UserError(f"out={out}: holds something else; name a new folder")
    if not (out / "data" / "split.json").is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(settings, indent=2) + "\n").encode())
        return
    began = read_json(file)
    for key, value in settings.items():
        if began.get(key) != value:
            raise UserError(
                f"out={out}: began with {key} {began.get(key)}, not {value}; give the same, or another out="
            )


def say_split(facts: dict[str, Any]) -> None:
    learn, ask = facts["train"]["images"], facts["test"]["images"]
    print(
        f"data: {learn:,} images to learn from, {ask:,} to be asked of, {len(facts['classes'])} classes; {facts['split']}"
    )
    for sentence in facts["differences"]:
        print(f"data differs: {sentence}")


def carry_out(job: Job, name: str, title: str) -> None:
    """One stage, unless it is done; a line says how long it took."""
    stage, file = STAGES[name], mark_of(job.out, name)
    if is_done(job, name):
        took = in_words(read_json(file)["seconds"])
        print(
            f"{title}: done before, in {took}; to have it done again, remove {file}, and of its results what is to be made anew"
        )
        return
    for needed in stage.needs:
        if not is_done(job, needed):
            raise UserError(f"{name} needs {needed}, which is not finished: leave the stages out, or name {needed} too")
    print(f"{title} ...", flush=True)
    with timed() as seconds:
        stage.work(job)
    mark = {"finished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "seconds": seconds[0], "with": given(job, stage)}
    write_whole(file, (json.dumps(mark, indent=2) + "\n").encode())
    print(f"{title}: {in_words(seconds[0])}", flush=True)


def is_done(job: Job, name: str) -> bool:
    """Whether it has finished, what it made is there, and nothing that it was made of has changed since."""
    stage, file = STAGES[name], mark_of(job.out, name)
    there = file.is_file() and all((job.out / product).exists() for product in stage.products)
    return there and read_json(file).get("with") == given(job, stage)


def given(job: Job, stage: Stage) -> dict[str, Any]:
    """What a stage is made of: when the stages before it finished, and the files that the user named for it."""
    marks = {name: mark_of(job.out, name) for name in stage.after}
    times = {name: read_json(file).get("finished") if file.is_file() else None for name, file in marks.items()}
    return times | {word: getattr(job, word) for word in stage.words}


def mark_of(out: Path, name: str) -> Path:
    return out / "stages" / f"{name}.json"


def read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file}: damaged ({error}); remove it") from error


@contextmanager
def timed() -> Iterator[list[float]]:
    seconds: list[float] = []
    began = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - began)


def in_words(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
