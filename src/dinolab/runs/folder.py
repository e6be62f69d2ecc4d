"""Guards a run's folder: one run at a time holds it, and never one with another configuration or other images."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dinolab.config import flatten, to_dict
from dinolab.curation.decisions import lineage
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.files import beside, lock, write_whole
from dinolab.machine import environment
from dinolab.options import Config
from dinolab.recipes import load_saved_config, save_config
from dinolab.rundir import RunFolder
from dinolab.schemas import ENVIRONMENT, read_object
from dinolab.training import checkpoint
from dinolab.training.phases import has_highres

# options that a resumed run may change; the images themselves are compared by number and names
MAY_CHANGE = ("run.", "eval.", "data.", "highres.micro_batch")


TRAINING: dict[int, object] = {}  # the training in this process, by the process: one that is forked is another


@contextmanager
def alone_in_process() -> Iterator[None]:
    """Refuse a second training at the same time, in another thread: each would set PyTorch's random numbers for the other."""
    mine = object()
    if TRAINING.setdefault(os.getpid(), mine) is not mine:
        raise UserError(
            "another training runs in this process; wait for it, or start this one in a process of its own "
            "(two threads would disturb each other's random numbers, and neither result could be repeated)"
        )
    try:
        yield
    finally:
        del TRAINING[os.getpid()]


def hold(folder: Path) -> IO:
    """Keep other processes from training in the same folder until the file is closed or the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return lock(RunFolder(folder).lock)
    except BlockingIOError as error:
        raise UserError(
            f"{folder}: another process trains in this folder; wait for it, or use another run.dir"
        ) from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be locked ({error}); put run.dir on a file system that has locks") from error


@contextmanager
def held_for_training(path: Path) -> Iterator[None]:
    """Hold the folder; a folder that did not exist before is removed again if the run is refused before it has results."""
    new, folder = not path.exists(), RunFolder(path)
    with hold(path):
        try:
            yield
        except UserError:
            if new and not folder.checkpoints.exists() and not folder.read_metrics()[0]:
                shutil.rmtree(path, ignore_errors=True)
            raise


def check_run(folder: RunFolder, cfg: Config, resume: bool) -> list[Path]:
    """List the whole checkpoints in the run's folder, oldest first; refuse a run with other options."""
    places = checkpoint.checkpoints(folder.checkpoints)
    if resume and not places:
        raise UserError(f"{folder.path}: no checkpoint to resume from; start the run without resume=true")
    if places:
        began = load_saved_config(folder.config)
        before, now = flatten(to_dict(began)), flatten(to_dict(cfg))
        # a phase that the run did not have may be added to it, also when it has ended
        may_change = MAY_CHANGE if has_highres(began) else (*MAY_CHANGE, "highres.")
        changed = [k for k in now if before.get(k) != now[k] and not k.startswith(may_change)]
        if changed:
            differences = ", ".join(f"{k}={now[k]} (was {before.get(k)})" for k in changed)
            raise UserError(
                f"{folder.path} holds a run with other options: {differences}. Give the same, or another run.dir; "
                f"init.weights={folder.path} there begins with the weights that this run has reached"
            )
    return places


def describe_run(folder: RunFolder, cfg: Config, source: Source, resumed: bool) -> None:
    """Write config.yaml and environment.json; refuses to go on with other images than the run began with."""
    path = folder.environment
    facts = {"images": len(source), "names_crc32": source.checksum(), "data": source.name, **environment()}
    facts |= {"curation": chain} if (chain := lineage(source)) else {}
    if resumed:
        try:
            began = read_object(path, ENVIRONMENT)
        except UserError as error:
            raise UserError(f"{error}; the run's data cannot be checked") from error
        for key, what in (("images", "images"), ("names_crc32", "as the checksum of their names")):
            if began.get(key) != facts[key]:
                raise UserError(
                    f"{source.name} has {facts[key]} {what}, the run in {folder.path} began with {began.get(key)}; use another run.dir"
                )
    else:
        write_whole(path, (json.dumps(facts, indent=2) + "\n").encode())
    with beside(folder.config) as place:  # last: a refused run leaves the folder's as it was
        save_config(cfg, place)
