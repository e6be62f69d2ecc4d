"""The JSON files of runs, jobs and evaluations: what each may hold, and the one reader of them all."""

import json
import math
from pathlib import Path
from types import NoneType
from typing import Any

from dinolab.errors import UserError

Schema = dict[str, Any]
"""What the values of a mapping are, by key: a type, the schema of a mapping, [what] for a list of such values, or (what, what) for one
of these. Keys may be missing, and those that are not in it may hold anything."""
EACH = "*"  # in a schema, in place of all keys that it does not name

CURATION: Schema = {  # manifest of a curated set, or of a stage of it
    **dict.fromkeys(("dinolab", "preprocessing", "parent", "compared", "rows", "stage", "sha256"), str),
    **dict.fromkeys(("width", "images", "unreadable"), int),
    **{"encoder": {"name": str, "sha256": str}, "sources": [str], "options": {}, "figures": {}},
}
INFO: Schema = {  # where weights come from
    "curation": [CURATION],
    "method": str,
    "network": str,
    "step": int,
    "images": int,
    "config": {
        "model": {"size": str, "dim": int, "depth": int, "patch_size": int},
        "optim": {"batch_size": int},
        "highres": {"length": str},
    },
}
CARD: Schema = {"format": str, "image_size": int, "pixels": {}, "model": {}, "info": INFO}  # model.json
ENVIRONMENT: Schema = {"images": int, "names_crc32": int, "data": str, "packages": {EACH: str}, "curation": [CURATION]}
PACE: Schema = {"epoch": float, "fixed": float}
JOB: Schema = {  # job.json
    **dict.fromkeys(("job", "title", "scale", "command"), str),
    **{key: [str] for key in ("options", "ways", "going")},
    **{"budget": float, "paces": {EACH: PACE}, "epochs": {EACH: float}, "evaluations": {EACH: float}},
    **{"left_out": {EACH: str}, "starts": {EACH: str}},
}
# the mark of a finished stage
STAGE: Schema = {"finished": str, "seconds": float, "cpu_seconds": float, "with": {EACH: (str, NoneType)}}
SIDE: Schema = {"images": int, "fingerprint": str}
SPLIT: Schema = {  # data/split.json of a job
    "data": str,
    "split": str,
    "images_of_a_class": (str, {"train": int, "test": int}),
    "train": SIDE,
    "test": SIDE,
    "classes": [str],
    "unlabelled_images": int,
    "differences": [str],
}
HELD_OUT: Schema = {"fingerprint": str, "test": [str], "images": int}  # split-N.json of an evaluation
CLIP: Schema = {"of": str, "frames": [str], "objects": {EACH: {"J": [float], "F": [float]}}}  # of an evaluation
LAYER_FACTS: Schema = {  # in the metadata of layer.safetensors
    "classes": [str],
    "blocks": int,
    "tokens": str,
    "size": [int],
    "precision": str,
    "encoder": {"name": str, "weights_crc32": str},
}
NAMES = dict.fromkeys(("model", "pass", "backend", "variant", "part", "note"), str)
COUNTS = dict.fromkeys(("batch", "tokens"), int)
BENCHMARK: Schema = {  # speed/NAME.json
    "benchmark": str,
    "title": str,
    "command": str,
    "conclusion": str,
    "rows": [{**NAMES, **COUNTS, EACH: (str, float, [float], NoneType)}],
}


def read_object(file: Path, schema: Schema | None = None) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError, which names the file, where it cannot be read or a value has another type."""
    try:
        if file.exists() and not file.is_file():
            raise OSError("not a regular file")
        content = json.loads(file.read_bytes().decode(errors="surrogateescape"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    except RecursionError as error:
        raise UserError(f"{file}: cannot be read (too many brackets within each other)") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a JSON object")
    if found := find_wrong(content, schema or {}):
        raise UserError(f"{file}: damaged, {found}")
    return content


def find_wrong(value: Any, what: Any, name: str = "") -> str:
    """The first part of a value that is something else than a schema says, in words; empty where there is none.

    Args:
        what: a schema, or what stands in one.
        name: of the value, for the words.
    """
    if isinstance(what, dict) and isinstance(value, dict):
        kinds = {key: what[key] if key in what else what.get(EACH, object) for key in value}
        found = (find_wrong(value[key], kind, f"{name}.{key}" if name else key) for key, kind in kinds.items())
        return next(filter(None, found), "")
    if isinstance(what, list) and isinstance(value, list):
        found = (find_wrong(one, what[0], f"{name}[{number}]") for number, one in enumerate(value))
        return next(filter(None, found), "")
    if isinstance(what, tuple) and any(not find_wrong(value, one) for one in what):
        return ""
    return "" if isinstance(what, type) and is_a(what, value) else f"{name} is not {in_words(what)}"


def in_words(what: Any) -> str:
    if isinstance(what, tuple):
        return " or ".join(map(in_words, what))
    return KINDS[type(what) if isinstance(what, dict | list) else what]


KINDS = {dict: "a mapping", list: "a list", str: "a text", int: "a whole number", float: "a number", NoneType: "null"}
LARGEST = 1 << 63  # numbers beyond it have no place in these files, and some arithmetic fails with them


def is_a(kind: type, value: Any) -> bool:
    """Whether a value from JSON is of this type; whole numbers are numbers too, true and false are not, nor what is not finite."""
    if kind is float:
        return is_number(value) and math.isfinite(value)
    return isinstance(value, kind) and (kind is not int or is_number(value))


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a number, which may be infinite or none (NaN)."""
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    return whole or isinstance(value, float)
