"""Hugging Face datasets on disk: what save_to_disk wrote, or parquet files (converted once, into the library's own cache)."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from dinolab.data.addresses import as_os_error, find_files
from dinolab.errors import UserError

BINARY_NAMES = ("image", "img", "jpg")  # columns that hold images although their type says only bytes


def is_saved(folder: str, named: str) -> bool:
    """Whether save_to_disk wrote this folder. Raises UserError if it holds a dataset of several splits."""
    if os.path.isfile(os.path.join(folder, "dataset_dict.json")):
        splits = [part for part in sorted(Path(folder).iterdir()) if (part / "state.json").is_file()]
        raise UserError(f"{named}: a dataset of several splits; name one of them: {' or '.join(map(str, splits))}")
    return os.path.isfile(os.path.join(folder, "state.json"))


def list_rows(address: str, files: list[str], label_column: str, named: str) -> tuple[list[str], list[str] | None, str]:
    """Locations of all rows, labels if every row has one, and why there are none."""
    table = open_table(address, files)
    image_column(table.features, named)
    names = [f"{address}\0{row}" for row in range(len(table))]
    feature = table.features.get(label_column)
    if feature is None:
        return names, None, f"no column {label_column!r}, only: {', '.join(table.features)}; set data.label_column"
    label_of = label_reader(feature)
    if label_of is None:
        return names, None, f"column {label_column!r} holds neither classes, nor text, nor whole numbers"
    values = table.select_columns([label_column]).with_format("arrow")[:].column(0).to_pylist()
    labels = [label_of(value) for value in values]
    if "" in labels:
        return names, None, f"column {label_column!r} is empty in row {labels.index('')}"
    return names, labels, ""


def read_row(address: str, row: int) -> bytes:
    """The encoded image of a row. Raises OSError if it holds none, and what the library raises."""
    value = images(address)[row].column(0)[0].as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None and isinstance(value, dict) and value.get("path"):
        folder = address if os.path.isdir(address) else os.path.dirname(address)
        return Path(folder, value["path"]).read_bytes()
    if data is None:
        raise OSError("the row holds no image")
    return data


@lru_cache(4)
def images(address: str) -> Any:
    """The column of images, as a dataset whose items are Arrow tables of one row: nothing is decoded."""
    table = open_table(address, find_files(address, ".parquet"))
    return table.select_columns([image_column(table.features, address)]).with_format("arrow")


def open_table(address: str, files: list[str]) -> Any:
    """The datasets.Dataset that save_to_disk put into a folder, or that parquet files hold. Raises OSError, UserError."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{address}: needs Hugging Face's library: pip install 'dinolab[datasets]'") from error
    with as_os_error():
        if os.path.isfile(os.path.join(address, "state.json")):
            return datasets.Dataset.load_from_disk(address)
        return datasets.Dataset.from_parquet(files)


def image_column(features: Any, named: str) -> str:
    """The first column of type Image, else the first of bytes and path, else of bytes with a telling name."""
    import datasets

    def is_bytes(feature: Any) -> bool:
        return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")

    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            return name
    for name, feature in features.items():
        if isinstance(feature, dict) and is_bytes(feature.get("bytes")):
            return name
    for name in BINARY_NAMES:
        if is_bytes(features.get(name)):
            return name
    columns = ", ".join(features)
    raise UserError(
        f"{named}: no column of images, only: {columns}; bytes without a type are found under {', '.join(BINARY_NAMES)}"
    )


def label_reader(feature: Any) -> Callable[[Any], str] | None:
    """Makes a label's text of a column's value, "" of none; None if the column's type can be no label."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return lambda value: "" if value is None or value < 0 else feature.int2str(value)
    if isinstance(feature, datasets.Value) and feature.dtype.startswith(
        ("string", "large_string", "int", "uint", "bool")
    ):
        return lambda value: "" if value is None else str(value)
    return None
