"""The trained backbone from a run's checkpoint; nothing else of the checkpoint is read."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinolab.errors import UserError
from dinolab.models.lora import merged
from dinolab.rundir import METADATA, RunFolder
from dinolab.schemas import CARD, read_object
from dinolab.weights.checksums import check_files

NETWORKS = ("teacher", "student")  # the first that there is, where the card of an earlier version names none


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint."""
    return (folder / METADATA).is_file()


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads RUN/checkpoints/step_N, which any number of processes may have saved.

    Returns:
        The model card, and the tensors of the trained backbone.

    Raises:
        UserError: the checkpoint, or the model.json of its run, cannot be read.
    """
    from torch.distributed.checkpoint.api import CheckpointException  # here, for it takes half a second to import

    try:
        card = read_object(RunFolder(folder.absolute().parents[1]).card, CARD)
        named = card.get("info", {}).get("network")
        tensors = read_tensors(folder, (named,) if named else NETWORKS)
        if "pos_embed" in tensors:  # in another phase of the run crops may have had another size
            card["image_size"] = math.isqrt(tensors["pos_embed"].shape[1] - 1) * card["model"]["patch_size"]
        card["info"] = card.get("info", {}) | {"step": int(folder.name.removeprefix("step_"))}
    except (Exception, CheckpointException) as error:  # the second derives from BaseException
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(f"{folder}: this checkpoint cannot be read ({reason})") from error
    return card, tensors


def read_tensors(folder: Path, networks: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of the backbone of the first of these networks that there is, by their names in it. Raises ValueError for none."""
    from dinolab.weights.metadata import CheckpointReader, load_tensors  # here, for the same reason

    check_files(folder)
    reader = CheckpointReader(folder)
    saved = reader.metadata.state_dict_metadata
    prefixes = [f"method.{network}.backbone." for network in networks]
    prefix = next((p for p in prefixes if any(name.startswith(p) for name in saved)), None)
    if prefix is None:
        raise ValueError("it holds no backbone")
    tensors = {
        name: torch.empty(found.size, dtype=found.properties.dtype)  # type: ignore[union-attr]
        for name, found in saved.items()
        if name.startswith(prefix)
    }
    load_tensors(tensors, reader)
    return merged({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
