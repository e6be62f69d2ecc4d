"""The ground truth of revisited Oxford and Paris (arXiv 1803.11285): gnd_*.pkl as published, or JSON of the same shape.

A pickle is a program. This file runs none: whatever is no list, mapping, text, number or plain array of numbers is refused.
"""

import io
import json
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinolab.errors import UserError
from dinolab.schemas import Schema, find_wrong

LARGEST = 1 << 28  # bytes of a file; the published ones have less than 1 MB
LISTS = ("easy", "hard", "junk")
TRUTH: Schema = {
    "imlist": [str],
    "qimlist": [str],
    "gnd": [{"bbx": [float], **{name: [int] for name in LISTS}}],
}


class Truth(NamedTuple):
    """What is right: N gallery images, M queries."""

    gallery: list[str]  # names of images, without folder and ending
    queries: list[str]
    boxes: list[tuple[float, float, float, float]]  # left, top, right, bottom of what is searched for in each query
    lists: list[dict[str, np.ndarray]]  # "easy", "hard" and "junk" of each query: positions in the gallery, int64


def read_truth(file: Path) -> Truth:
    """Raises UserError for a file that holds something else, wants to run code, or contradicts itself."""
    try:
        content = read_content(file)
        found = plain(json.loads(content) if file.suffix == ".json" else PlainUnpickler(content).load())
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{file}: damaged, or no ground truth ({type(error).__name__})") from error
    wrong = find_wrong(found, TRUTH) or lacking(found)
    if wrong:
        raise UserError(f"{file}: no ground truth of revisited Oxford or Paris: {wrong}")
    return Truth(
        found["imlist"],
        found["qimlist"],
        [tuple(one["bbx"]) for one in found["gnd"]],
        [{name: np.array(one[name], np.int64) for name in LISTS} for one in found["gnd"]],
    )


def read_content(file: Path) -> bytes:
    try:
        if file.stat().st_size > LARGEST:
            raise UserError(f"has more than {LARGEST >> 20} MiB, so it is no ground truth")
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from error


def lacking(found: dict[str, Any]) -> str:
    """What is missing or contradicts itself, in words; empty where all is well."""
    missing = [name for name in TRUTH if name not in found]
    if missing:
        return f"it lacks {', '.join(missing)}"
    if not found["imlist"] or not found["qimlist"]:
        return "it has no images or no queries"
    if len(found["gnd"]) != len(found["qimlist"]):
        return f"{len(found['qimlist'])} queries, and answers for {len(found['gnd'])}"
    for name, one in zip(found["qimlist"], found["gnd"]):
        absent = [key for key in ("bbx", *LISTS) if key not in one]
        if absent:
            return f"query {name} lacks {', '.join(absent)}"
        left, top, right, bottom = one["bbx"] if len(one["bbx"]) == 4 else (0, 0, 0, 0)
        if left >= right or top >= bottom:
            return f"the box of query {name} is not left, top, right, bottom"
        if any(not 0 <= at < len(found["imlist"]) for key in LISTS for at in one[key]):
            return f"query {name} names images beyond the list of {len(found['imlist'])}"
    return ""


def plain(value: Any) -> Any:
    """The same with arrays and tuples as lists, for a few levels: what lies deeper is of no use here."""

    def at(value: Any, depth: int) -> Any:
        if isinstance(value, Array):
            value = value.values
        if isinstance(value, dict) and depth:
            return {key: at(one, depth - 1) for key, one in value.items()}
        return [at(one, depth - 1) for one in value] if isinstance(value, list | tuple) and depth else value

    return at(value, 5)


class PlainUnpickler(
    pickle._Unpickler
):  # not the one in C: its memory follows the numbers that a file gives to objects
    """Reads a pickle of plain containers, texts, numbers and arrays of numbers, and refuses everything else."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name that pickled arrays hold. No other is looked up, so nothing is imported or called."""
        if module in MODULES and name in STAND_INS:
            return STAND_INS[name]
        raise UserError(f"refused: it wants to use {module}.{name}, and a ground truth needs only lists and numbers")


class Number:
    """Stands in for numpy.dtype."""

    __slots__ = ("kind",)

    def __init__(self, kind: str, *_: Any) -> None:
        if kind[:1] not in "iuf" or kind[1:] not in "1248":
            raise UserError(f"refused: an array of {kind[:20]!r}, and a ground truth needs only numbers")
        self.kind = np.dtype(kind)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.kind = self.kind.newbyteorder(state[1]) if state[1] in ("<", ">") else self.kind

    def read(self, content: Any) -> list[Any]:
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        return np.frombuffer(raw, self.kind).tolist() if raw else []


class Array:
    """Stands in for an array and for the function that makes an empty one."""

    __slots__ = ("values",)

    def __init__(self, *_: Any) -> None:
        self.values: list[Any] = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, _, number, _, content = state
        self.values = number.read(content)


class Filled:
    """Stands in for the function that makes an array of a buffer, in pickles of protocol 5."""

    __slots__ = ()

    def __new__(cls, content: Any, number: Number, *_: Any) -> Any:
        return number.read(content)


class Scalar:
    """Stands in for the function that makes a single number."""

    __slots__ = ()

    def __new__(cls, number: Number, content: Any) -> Any:
        (value,) = number.read(content)
        return value


class Latin:
    """Stands in for the functions by which older pickles turn a text into bytes."""

    __slots__ = ()

    def __new__(cls, content: str = "", *_: Any) -> Any:
        return content.encode("latin1")


MODULES = (
    "numpy",
    "_codecs",
    "__builtin__",
    *(f"numpy.{core}.{module}" for core in ("core", "_core") for module in ("multiarray", "numeric")),
)
STAND_INS = {
    "dtype": Number,
    "ndarray": Array,
    "_reconstruct": Array,
    "_frombuffer": Filled,
    "scalar": Scalar,
    "encode": Latin,
    "bytes": Latin,
}
