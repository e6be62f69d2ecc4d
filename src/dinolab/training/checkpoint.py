"""The whole training state on disk, by torch.distributed.checkpoint (DCP): written beside while training goes on, then renamed.

A checkpoint does not depend on the number of processes: saved by eight, it loads in one, and back.
"""

import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from dinolab.errors import UserError
from dinolab.parallel import collect, lost_contact, rank
from dinolab.rundir import checkpoints, step_of
from dinolab.training.optim import trained
from dinolab.weights.checksums import check_files, write_checksums
from dinolab.weights.metadata import CheckpointReader, load_tensors

# one process without a process group is what we mean
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


def training_state(method: nn.Module, optimizer: torch.optim.Optimizer, step: int, broken: list[int]) -> dict[str, Any]:
    """All that a later step depends on: parameters and buffers, the optimizer's moments by parameter name, the step.

    The data position and every random draw are functions of the step. `broken` are the unreadable images met so far. Everything is
    a tensor: other values would be pickled, and a pickle from a stranger is not safe to open.
    """
    return {
        "method": method.state_dict(),
        "optimizer": {name: optimizer.state[p] for name, p in trained(method.student).items()},  # type: ignore[arg-type]
        "step": torch.tensor(step),
        "broken": torch.tensor(broken, dtype=torch.int64),
    }


@dataclass
class Checkpoints:
    """The checkpoints of a run, step_N in `folder`, of which a kill at any moment leaves the earlier ones whole."""

    folder: Path
    keep: int  # newest ones that are kept
    keep_every: int = 0  # steps between those that are kept for good; 0: none

    def __post_init__(self) -> None:
        self._writing: tuple[Future, Path] | None = None
        self._thread = ThreadPoolExecutor(1)
        if rank() == 0:
            for left in self.folder.glob("step_*.tmp"):  # of processes that were killed while they wrote
                shutil.rmtree(left, ignore_errors=True)
        # of its own: the writing thread's messages must not meet those of the training
        self._group: Any = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def save(self, state: dict[str, Any]) -> None:
        """Begin to write a copy of the state; all ranks together. Waits for an earlier one that is still being written."""
        self.finish()
        place = self.folder / f"step_{int(state['step']):08d}"
        if place in checkpoints(self.folder):  # resumed from it and stopped at once
            return
        beside = self.folder / (place.name + ".tmp")
        if rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in (place, beside):
                shutil.rmtree(leftover, ignore_errors=True)
        alone = self._group is None
        saving = dcp.async_save(state, checkpoint_id=beside, process_group=self._group, no_dist=alone)
        self._writing = self._thread.submit(complete, cast(Future, saving), beside), place

    def land(self) -> None:
        """Put the checkpoint in its place if it has been written by now; raises UserError if it could not be."""
        if self._writing and self._writing[0].done():
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is in its place; raises UserError if it cannot be written."""
        if not self._writing:
            return
        (saving, place), self._writing = self._writing, None
        try:
            saving.result()
        except (Exception, CheckpointException) as error:  # the second derives from BaseException
            if lost_contact(error):
                raise RuntimeError(str(error)) from error
            if rank() == 0:  # what a full disk took of it
                shutil.rmtree(place.with_name(place.name + ".tmp"), ignore_errors=True)
            raise UserError(f"{place}: cannot be written, is the disk full? ({_reason(error)})") from error
        if rank() == 0:
            place.with_name(place.name + ".tmp").rename(place)
            for old in checkpoints(self.folder)[: -self.keep]:
                if not self.keep_every or step_of(old) % self.keep_every:
                    shutil.rmtree(old, ignore_errors=True)


def complete(saving: Future, folder: Path) -> None:
    """Wait until the files are written, then write their checksums."""
    saving.result()
    if rank() == 0:  # DCP ends on rank 0 last, when all have written
        write_checksums(folder)


def load(place: Path, method: nn.Module, optimizer: torch.optim.Optimizer) -> list[int]:
    """Fill method and optimizer in place, all ranks together; returns the unreadable images met so far."""
    state = training_state(method, optimizer, 0, [])
    del state["step"]  # that of the folder's name counts; earlier versions stored it as a pickle, which is never opened
    damage = next(filter(None, collect(find_damage(place) if rank() == 0 else "")), "")
    if damage:
        raise UserError(f"{place}: this checkpoint cannot be read ({damage})")
    try:
        reader = CheckpointReader(place)
        # the number of broken images is known to the checkpoint alone
        saved: Any = reader.metadata.state_dict_metadata["broken"]
        state["broken"] = torch.zeros(saved.size, dtype=torch.int64)
        load_tensors(state, reader)
    except (Exception, CheckpointException) as error:
        raise UserError(f"{place}: this checkpoint cannot be read ({_reason(error)})") from error
    method.load_state_dict(state["method"])
    return cast(list[int], state["broken"].tolist())


def find_damage(place: Path) -> str:
    """Why the files of a checkpoint cannot be right; empty where they are."""
    try:
        check_files(place)
    except (OSError, ValueError) as error:
        return _reason(error)
    return ""


def set_aside(place: Path) -> Path:
    """Rename a checkpoint that cannot be read, so that a new one can take its place."""
    aside = place.with_name(place.name + ".unreadable")
    shutil.rmtree(aside, ignore_errors=True)
    return place.rename(aside)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
