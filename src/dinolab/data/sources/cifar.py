"""CIFAR-10 and CIFAR-100 as their authors pack them for Python: cifar-10-batches-py and cifar-100-python.

The folder stands for the training images, and its file test_batch, or test, for the test images. The files are pickles; everything
but arrays, numbers and text is refused.
"""

import os
import pickle
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dinolab.data.addresses import absolute, as_os_error
from dinolab.data.sources.kind import Count, Kind, Listing, Request
from dinolab.errors import UserError

META = {"batches.meta": "label_names", "meta": "fine_label_names"}  # files with the names of the classes
SIDE = 32  # pixels
SAFE = {  # what the pickles of arrays name
    (f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}  # fmt: skip


class Cifar(Kind):
    """The parts of a location are the file and the row."""

    title = "CIFAR-10 or CIFAR-100 (cifar-10-batches-py, cifar-100-python, or its file of test images)"

    def claims(self, path: str) -> bool:
        place = Path(absolute(path))
        folder = place if place.is_dir() else place.parent
        names = {file for file in META if (folder / file).is_file()}
        return bool(names) and (
            place == folder or place.name in ("test", "train", "test_batch") or "batch" in place.name
        )

    def files(self, request: Request) -> list[str]:
        place = Path(request.local_address())
        if place.is_file():
            return [str(place)]
        found = sorted(str(file) for file in place.glob("data_batch_*")) or [str(place / "train")]
        return [file for file in found if os.path.isfile(file)]

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        if not files:
            raise UserError(f"{request.named}: neither data_batch_1 to 5 nor train is in this folder")
        folder = Path(files[0]).parent
        meta = next(file for file in META if (folder / file).is_file())
        names: list[str] = []
        labels: list[str] = []
        try:
            classes = unpickled(str(folder / meta))[META[meta]]
            for file in files:
                content = unpickled(file)
                rows = content["labels"] if "labels" in content else content["fine_labels"]
                names += [f"{file}\0{row}" for row in range(len(rows))]
                labels += [str(classes[label]) for label in rows]
                count(len(names))
        except (LookupError, TypeError) as error:
            raise UserError(f"{request.named}: not the files of CIFAR ({type(error).__name__}: {error})") from error
        return Listing(names, labels)

    def read(self, parts: Sequence[str]) -> bytes:
        file, row = parts
        with as_os_error():
            pixels = np.asarray(unpickled(file)["data"][int(row)], np.uint8).reshape(3, SIDE, SIDE)
        return cv2.imencode(".bmp", np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0)))[1].tobytes()

    def describe(self, parts: Sequence[str]) -> str:
        return f"{parts[0]}, row {parts[1]}"

    def forget(self) -> None:
        unpickled.cache_clear()


class Unpickler(pickle._Unpickler):  # not the one in C: its memory follows the numbers that a file gives to objects
    """Reads arrays and plain values; anything else would be code of the file's author."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in SAFE:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no file of CIFAR does")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


@lru_cache(8)
def unpickled(file: str) -> dict[str, Any]:
    """The content of one of CIFAR's files. Raises UserError for anything else."""
    try:
        with open(file, "rb") as opened:
            content = Unpickler(opened, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{file}: not a file of CIFAR ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a file of CIFAR (no dict)")
    return content


CIFAR = Cifar()
