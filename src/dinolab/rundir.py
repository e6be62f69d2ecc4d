"""The folder of a run: the name of every file in it, the one reader of its JSON files, and that of metrics.jsonl.

Training writes these files; resuming, evaluations, the report, the export and the reference job read them.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from dinolab.errors import UserError

Row = dict[str, Any]  # one line of metrics.jsonl: a "step", and figures by name
Schema = dict[str, Any]
"""What the values of a mapping are, by key: a type, the schema of a mapping, [what] for a list of such values, or (what, what) for one
of these. Keys may be missing, and those that are not in it may hold anything."""
EACH = "*"  # in a schema, in place of all keys that it does not name

CURATION: Schema = {  # manifest of a curated set, or of a stage of it
    **dict.fromkeys(("dinolab", "preprocessing", "parent", "rows", "stage", "sha256"), str),
    **dict.fromkeys(("width", "images", "unreadable"), int),
    **{"encoder": {"name": str, "sha256": str}, "sources": [str], "options": {}, "figures": {}},
}
INFO: Schema = {  # where weights come from
    "curation": [CURATION],
    "method": str,
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
JOB: Schema = {"job": str, "title": str, "scale": str, "options": [str]}  # job.json
STAGE: Schema = {"finished": str, "seconds": float, "with": {EACH: (str, NoneType)}}  # the mark of a finished stage
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


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files; none of them need exist."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, machine, and checksums of the images' names."""
        return self.path / "environment.json"

    @property
    def listing(self) -> Path:
        """Cache of the list of images."""
        return self.path / "sources.json.gz"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def wandb_id(self) -> Path:
        return self.path / "wandb_id"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """The run's product: the weights of the trained backbone."""
        return self.path / "model.safetensors"

    @property
    def card(self) -> Path:
        """The product's model card: architecture, pixels, and where the weights come from."""
        return self.path / "model.json"

    @property
    def best(self) -> Path:
        """Folder of the weights with the best k-NN accuracy while training, and their model card."""
        return self.path / "best"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def attention(self) -> Path:
        return self.path / "attention.png"

    @property
    def pca(self) -> Path:
        return self.path / "pca.png"

    @property
    def evaluations(self) -> Path:
        """A folder for each evaluation."""
        return self.path / "eval"

    @property
    def speed(self) -> Path:
        """Results of benchmarks."""
        return self.path / "speed"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def video(self) -> Path:
        """The demo video of the reference job."""
        return self.path / "video.mp4"

    @property
    def job(self) -> Path:
        """The settings of the reference job; recipe.json where an earlier version wrote it."""
        earlier = self.path / "recipe.json"
        return earlier if earlier.is_file() else self.path / "job.json"

    @property
    def stages(self) -> Path:
        """A file for each finished stage of the reference job."""
        return self.path / "stages"

    @property
    def split(self) -> Path:
        """Which images the reference job trains and tests on."""
        return self.path / "data" / "split.json"

    @property
    def untrained(self) -> Path:
        """The reference job's network with initial weights."""
        return self.path / "baselines" / "untrained"

    def read_metrics(self) -> tuple[list[Row], list[str]]:
        """See the function `read_metrics`."""
        return read_metrics(self.metrics)


RESULT = "result.json"  # an evaluation's figures, in its folder
PREDICTIONS = "predictions.csv"
CONFUSION = "confusion.png"
PICTURES = "pictures"  # folder beside result.json with the PNGs of an evaluation, which the report shows in the order of their names
LAYER = "layer.safetensors"  # the trained linear layer of an evaluation
COMPARISON = "all.json"  # several evaluations of several encoders


def read_metrics(file: Path) -> tuple[list[Row], list[str]]:
    """The lines of a metrics.jsonl, in steps that never decrease, and a sentence for each line that cannot be used.

    A resumed run repeats the steps since its checkpoint: the later lines count. The last line may be cut off where the process was
    killed while it wrote; that is no problem and gets no sentence. A file that does not exist has no lines.
    """
    rows: list[Row] = []
    problems: list[str] = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, 1):
        row = read_line(line)
        if row is None:
            if number < len(lines):
                problems.append(f'{file.name}, line {number}: left out, not a JSON object of numbers with a "step"')
            continue
        step = row["step"]
        while rows and rows[-1]["step"] > step:
            rows.pop()
        rows.append(row)
    return rows, problems


def read_line(line: str) -> Row | None:
    """A line of metrics.jsonl; None where it is not an object of numbers with a finite "step"."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not all(map(is_number, row.values())):
        return None
    return row if math.isfinite(row.get("step", math.nan)) else None


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
