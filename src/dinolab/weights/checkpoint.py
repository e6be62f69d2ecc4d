"""The teacher's backbone out of a run's checkpoint, with nothing else of it read."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from dinolab.errors import UserError

PREFIX = "method.teacher.backbone."


def is_checkpoint(place: Path) -> bool:
    return (place / ".metadata").is_file()


def read_checkpoint(place: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The model card and the teacher's tensors of RUN/checkpoints/step_N, saved by any number of processes.

    Raises UserError where the checkpoint, or the run's model.json above it, cannot be read.
    """
    try:
        card = json.loads((place.absolute().parents[1] / "model.json").read_text())
        found = dcp.FileSystemReader(place).read_metadata().state_dict_metadata
        tensors = {
            name.removeprefix(PREFIX): torch.empty(saved.size, dtype=saved.properties.dtype)
            for name, saved in found.items()
            if name.startswith(PREFIX) and isinstance(saved, TensorStorageMetadata)
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one process without a process group is what we mean
            dcp.load(
                {"method": {f"teacher.backbone.{name}": tensor for name, tensor in tensors.items()}},
                checkpoint_id=place,
            )
        if "pos_embed" in tensors:  # in another phase of the run crops may have had another size
            card["image_size"] = math.isqrt(tensors["pos_embed"].shape[1] - 1) * card["model"]["patch_size"]
        card["info"] |= {"step": int(place.name.removeprefix("step_"))}
    except (Exception, CheckpointException) as error:  # the second derives from BaseException
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(f"{place}: this checkpoint cannot be read ({reason})") from error
    return card, tensors
