"""Reads tensors from files that others wrote, without running code in them, and puts tensors into a model."""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dinolab.errors import UserError, some

WRAPPERS = re.compile(
    r"\b(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)  # of PyTorch, around a network
BACKBONES = re.compile(
    r"^(?:model\.)?(?:(teacher[._]|momentum_)|(student[._]))?backbone\."
)  # in DINO, DINOv2, Lightning's methods
NOT_OPENED = (  # what other libraries raise for a missing file, download or network, or a file with more than tensors
    OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError,
)  # fmt: skip
NAMED = 12  # tensors that a message names; it counts the others


def read_backbone(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a backbone from a .safetensors file, or from one that torch.save wrote.

    The file holds a plain state dict or a whole training checkpoint, of DINO, of DINOv2 or of a method in Lightning. From a training
    checkpoint the backbone of the teacher is read, or that of the student if there is no teacher.

    Returns:
        Tensors by name, without the prefixes of wrappers and of the backbone.

    Raises:
        UserError: the file is missing or broken, or holds more than tensors and plain values.
    """
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    for key in ("teacher", "student", "model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(
        isinstance(value, Tensor) for name, value in content.items() if isinstance(name, str)
    ):
        raise UserError(
            f"{path}: it holds no tensors with names; give a state dict, as torch.save(model.state_dict()) writes it"
        )
    named = {
        WRAPPERS.sub("", name): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    return choose_backbone(named)


def choose_backbone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the teacher's backbone, else those of a backbone without an owner, else the student's; all if there is none."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if match := BACKBONES.match(name):
            rank = 0 if match[1] else 2 if match[2] else 1
            found.setdefault(rank, {})[name[match.end() :]] = value
    return found[min(found)] if found else tensors


def fit(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Makes `tensors` the weights of a module, in fp32. Raises UserError with the name of every tensor that does not fit."""
    own = module.state_dict()
    counters = [
        name for name in own if name.endswith("num_batches_tracked")
    ]  # which old files lack, and nothing computes with
    tensors = {name: torch.zeros((), dtype=torch.int64) for name in counters} | dict(tensors)
    problems = [f"{name} is missing" for name in own.keys() - tensors.keys()]
    problems += [f"{name} is unknown" for name in tensors.keys() - own.keys()]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, should be {tuple(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if tensors[name].shape != own[name].shape
    ]
    problems += [
        f"{name} holds {str(tensors[name].dtype).removeprefix('torch.')}, should hold {str(own[name].dtype).removeprefix('torch.')}"
        for name in own.keys() & tensors.keys()
        if kind(tensors[name]) != kind(own[name])
    ]
    problems = problems or [
        f"{name} holds values that are not finite" for name in own if not tensors[name].isfinite().all()
    ]
    if problems:
        raise UserError(f"{where}: {some(sorted(problems), NAMED)}")
    exact = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    module.load_state_dict(exact, assign=True)  # assign: the module may be on the meta device


def kind(tensor: Tensor) -> tuple[bool, bool, torch.layout]:
    """Whether a tensor holds fractions or complex numbers, and how it is laid out: weights must have those of the model."""
    return tensor.is_floating_point(), tensor.is_complex(), tensor.layout


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: truncated or not a safetensors file ({error})") from error


def _pickled(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # DINO's checkpoints hold their options in one
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except Exception as error:  # pickle, zip and torch raise many kinds for a damaged file
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: {refused(error) or f'truncated or not a PyTorch file ({first})'}") from error


def not_opened(name: str, error: Exception) -> UserError:
    """The error for one of NOT_OPENED that another library raised."""
    return UserError(f"{name}: {refused(error) or ' '.join(str(error).split())[:300]}")


def refused(error: Exception) -> str:
    """Why PyTorch did not open a pickle; empty for other errors. Its own messages advise what is not safe, so they are not repeated."""
    found = re.search(r"(?:GLOBAL|global:) (?!GLOBAL)(\S+)", str(error))
    if found:
        return (
            f"holds more than tensors ({found[1]}) and is not opened, because that could run code of a stranger; "
            "ask those who wrote it for the tensors alone, as a .safetensors file"
        )
    pickled = isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)
    return "truncated or not a PyTorch file" if pickled else ""
