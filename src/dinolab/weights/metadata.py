"""Reads the files of PyTorch's distributed checkpoints (DCP) without running code in them.

PyTorch unpickles a checkpoint's `.metadata`, and values that are no tensors, with no restriction: a prepared file could run any code.
Here a restricted unpickler makes nothing but plain records, from which DCP's own objects are built after a check of every field.
Values that are no tensors are never read.
"""

import io
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from dinolab.rundir import METADATA

DTYPES = {str(found).removeprefix("torch."): found for found in vars(torch).values() if isinstance(found, torch.dtype)}
RECORDS = {  # module: names of what a .metadata holds, beside tensor types, texts, numbers and containers
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "ChunkStorageMetadata",
        "BytesStorageMetadata",
        "TensorProperties",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    ),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "WindowsPath"),
}


class Record:
    """Stands for an object in a pickle: the arguments it was made with, and its state."""

    def __new__(cls, *args: Any) -> "Record":
        made = super().__new__(cls)
        made.args, made.state = args, {}
        return made

    args: tuple[Any, ...]
    state: Any

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


class RecordUnpickler(
    pickle._Unpickler
):  # not the one in C: its memory follows the numbers that a file gives to objects
    """An unpickler that makes records in place of objects, and refuses names that a .metadata does not hold."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if name not in RECORDS.get(module, ()):
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which no checkpoint of dinolab's holds")
        return type(name, (Record,), {})  # of its own each time: a pickle can change the classes that it names


class CheckpointReader(dcp.FileSystemReader):
    """DCP's reader of a checkpoint's files, for tensors alone. Raises ValueError or an unpickling error for damaged metadata."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.metadata = read_metadata(folder)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self.metadata


class TensorPlanner(dcp.DefaultLoadPlanner):
    """Refuses values that are no tensors: DCP would unpickle them."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        raise ValueError(f"{read_item.dest_index.fqn} is no tensor")


def load_tensors(state: dict[str, Any], reader: CheckpointReader) -> None:
    """Fills the tensors of a nested state in place, all processes together. Raises what DCP raises for a damaged checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns where there is only one process, which is intended
        dcp.load(state, storage_reader=reader, planner=TensorPlanner())


def read_metadata(folder: Path) -> Metadata:
    """The tensors that a checkpoint holds and where they lie. Raises ValueError for anything that is no such description."""
    with (folder / METADATA).open("rb") as file:
        content = fields(RecordUnpickler(file).load(), "Metadata")
    tensors: dict[str, Any] = {
        text(name): tensor_of(found)
        for name, found in mapping(content.get("state_dict_metadata")).items()
        if type(found).__name__ != "BytesStorageMetadata"
    }
    places = {index_of(index): place_of(place) for index, place in mapping(content.get("storage_data")).items()}
    check_sizes(folder, tensors, {place.relative_path for place in places.values()})
    return Metadata(tensors, storage_data=places, storage_meta=StorageMeta())


def check_sizes(folder: Path, tensors: dict[str, Any], names: set[str]) -> None:
    """Raises ValueError where files are missing, or hold less than a tensor is said to have: no memory is taken for it."""
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
    held = sum((folder / name).stat().st_size for name in names)
    for name, tensor in tensors.items():
        if math.prod(tensor.size) * tensor.properties.dtype.itemsize > held:
            raise ValueError(f"{name} of {tuple(tensor.size)} is larger than the checkpoint's files")


def fields(record: Any, name: str) -> dict[str, Any]:
    """The state of a record of this name, which must be a mapping."""
    if not isinstance(record, Record) or type(record).__name__ != name:
        raise ValueError(f"{METADATA} holds something else in place of {name}")
    return mapping(record.state)


def mapping(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{METADATA} lacks a table")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{METADATA} lacks a name")
    return value


def number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{METADATA} holds something else in place of a size")
    return value


def size(value: Any) -> torch.Size:
    """The numbers in a record of torch.Size."""
    if not isinstance(value, Record) or type(value).__name__ != "Size" or len(value.args) != 1:
        raise ValueError(f"{METADATA} lacks a size")
    return torch.Size([number(one) for one in value.args[0]])


def tensor_of(record: Any) -> TensorStorageMetadata:
    found = fields(record, "TensorStorageMetadata")
    properties = found.get("properties")
    dtype = next(iter(properties.state), None) if isinstance(properties, Record) else None
    if not isinstance(dtype, torch.dtype) or not isinstance(found.get("chunks"), list):
        raise ValueError(f"{METADATA} lacks a tensor's type")
    chunks = [fields(chunk, "ChunkStorageMetadata") for chunk in found["chunks"]]
    parts = [ChunkStorageMetadata(size(chunk.get("offsets")), size(chunk.get("sizes"))) for chunk in chunks]
    return TensorStorageMetadata(TensorProperties(dtype), size(found.get("size")), parts)


def index_of(record: Any) -> MetadataIndex:
    found = fields(record, "MetadataIndex")
    offset, index = found.get("offset"), found.get("index")
    return MetadataIndex(
        text(found.get("fqn")), optional(size, offset), optional(number, index)
    )  # an index is a hint for the search


def optional(check: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else check(value)


def place_of(record: Any) -> _StorageInfo:
    """Where a part of a tensor lies. Files are those of the checkpoint's own folder, and not compressed."""
    found = fields(record, "_StorageInfo")
    name = text(found.get("relative_path"))
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
        raise ValueError(f"{name!r} lies outside of the checkpoint")
    return _StorageInfo(name, number(found.get("offset")), number(found.get("length")))
