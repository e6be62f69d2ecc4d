"""The whole training state on disk, by torch.distributed.checkpoint: written beside, then renamed."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from dinolab.errors import UserError


def training_state(method: nn.Module, optimizer: torch.optim.Optimizer, step: int, broken: list[int]) -> dict[str, Any]:
    """All that a later step depends on: parameters and buffers, the optimizer's moments by parameter name, the step.

    The data position and every random draw are functions of the step. `broken` are the unreadable images met so far.
    """
    student = method.student.named_parameters()  # type: ignore[union-attr, operator]
    return {
        "method": method.state_dict(),
        "optimizer": {name: optimizer.state[p] for name, p in student},
        "step": step,
        "broken": torch.tensor(broken, dtype=torch.int64),
    }


def save(folder: Path, state: dict[str, Any], keep: int) -> Path:
    """Write checkpoints/step_N; a kill at any moment leaves the earlier ones whole. Keeps the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"step_{state['step']:08d}"
    if place.exists():  # resumed from it and stopped at once
        return place
    beside = folder / (place.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one process without a process group is what we mean
            dcp.save(state, checkpoint_id=beside)
    except CheckpointException as error:
        raise UserError(f"{place}: cannot be written, is the disk full? ({_reason(error)})") from error
    beside.rename(place)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step_*") if p.suffix != ".tmp" and (p / ".metadata").is_file())


def load(place: Path, method: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[int]]:
    """Fill method and optimizer in place; returns the step that comes next and the unreadable images met so far."""
    state = training_state(method, optimizer, 0, [])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # the number of broken images is known to the checkpoint alone
            saved = dcp.FileSystemReader(place).read_metadata().state_dict_metadata["broken"]
            assert isinstance(saved, TensorStorageMetadata)
            state["broken"] = torch.zeros(saved.size, dtype=torch.int64)
            dcp.load(state, checkpoint_id=place)
    except (Exception, CheckpointException) as error:  # the second derives from BaseException
        raise UserError(
            f"{place}: this checkpoint cannot be read ({_reason(error)}); delete the folder to go on from an earlier one"
        ) from error
    method.load_state_dict(state["method"])
    return state["step"], state["broken"].tolist()


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
