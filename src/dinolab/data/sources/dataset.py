"""Hugging Face datasets on disk: a folder that save_to_disk wrote, or parquet files.

The datasets library converts parquet files once, into a cache of its own.
"""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from dinolab.data.addresses import absolute, as_os_error, find_files, is_file_name, is_remote, read_regular
from dinolab.data.sources.kind import MOST_NAMED, Count, Kind, Listing, Request
from dinolab.data.sources.packed import find_packed, is_folder_of
from dinolab.errors import UserError, some

BINARY_NAMES = ("image", "img", "jpg")  # columns that hold images although their type says only bytes


class Dataset(Kind):
    """The parts of a location are the address of the dataset, the column of the images if the user chose it, and the row."""

    title = "a Hugging Face dataset (a folder of save_to_disk, or .parquet files)"

    def claims(self, path: str) -> bool:
        address = absolute(path)
        if is_remote(path) or not os.path.isdir(address):
            return is_file_name(path, ".parquet")
        if is_saved(address) or has_several_splits(address):
            return True
        # some tools write a table of facts beside each tar shard; the images are in the shards then
        with os.scandir(address) as entries:
            has_shards = any(entry.name.lower().endswith(".tar") and entry.is_file() for entry in entries)
        return not has_shards and is_folder_of(address, ".parquet")

    def files(self, request: Request) -> list[str]:
        address = request.local_address()
        if has_several_splits(address):
            splits = [str(part) for part in sorted(Path(address).iterdir()) if is_saved(str(part))]
            raise UserError(f"{request.named}: a dataset of several splits; name one of them: {' or '.join(splits)}")
        return find_files(address, ".arrow") if is_saved(address) else find_packed(request, ".parquet")

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        return list_rows(request, files)

    def read(self, parts: Sequence[str]) -> bytes:
        address, *column, row = parts
        return read_row(address, int(row), *column)

    def describe(self, parts: Sequence[str]) -> str:
        return f"{parts[0]}, row {parts[-1]}"

    def forget(self) -> None:
        image_rows.cache_clear()


def is_saved(folder: str) -> bool:
    """Whether save_to_disk wrote this folder."""
    return os.path.isfile(os.path.join(folder, "state.json"))


def has_several_splits(folder: str) -> bool:
    """Whether save_to_disk wrote this folder for a dataset of several splits, each in a folder below it."""
    return os.path.isfile(os.path.join(folder, "dataset_dict.json"))


def list_rows(request: Request, files: list[str]) -> Listing:
    """List all rows; there are labels if every row has one.

    Args:
        request: its address, a folder, a file or a pattern, is what the dataset is opened by.
        files: its parquet files.
    """
    table = open_table(request.address, files)
    check_image_column(table.features, request)
    chosen, label_column = request.columns.image_column, request.columns.label_column
    place = f"{request.address}\0{chosen}" if chosen else request.address
    names = [f"{place}\0{row}" for row in range(len(table))]
    feature = table.features.get(label_column)
    if feature is None:
        return Listing(names, None, request.lacks("label_column", list(table.features)))
    label_of = label_reader(feature)
    if label_of is None:
        return Listing(names, None, f"column {label_column!r} holds neither classes, nor text, nor whole numbers")
    with as_os_error():
        values = whole(table.select_columns([label_column]).with_format("arrow")[:]).to_pylist()
    labels = [label_of(value) for value in values]
    if "" in labels:
        return Listing(names, None, f"column {label_column!r} holds no label in row {labels.index('')}")
    return Listing(names, labels)


def read_row(address: str, row: int, column: str = "") -> bytes:
    """The encoded image of a row. Raises OSError if the row holds none, and whatever the datasets library raises."""
    value = whole(image_rows(address, column)[row])[0].as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None and isinstance(value, dict) and value.get("path"):
        folder = address if os.path.isdir(address) else os.path.dirname(address)
        path = os.path.realpath(os.path.join(folder, value["path"]))
        if not path.startswith(os.path.join(os.path.realpath(folder), "")):
            raise OSError(f"the row names a file outside the dataset's folder: {value['path']}")
        return read_regular(path)
    if data is None:
        raise OSError("the row holds no image")
    return data


def whole(rows: Any) -> Any:
    """The only column of an Arrow table. Raises pyarrow.ArrowInvalid where its file is damaged: to read it would end the process."""
    rows.validate(full=True)
    return rows.column(0)


@lru_cache(4)
def image_rows(address: str, column: str) -> Any:
    """The column of images, as a dataset whose items are Arrow tables of one row: nothing is decoded. "" finds the column."""
    table = open_table(address, find_files(address, ".parquet"))
    return table.select_columns([column or find_image_column(table.features)]).with_format("arrow")


def open_table(address: str, files: list[str]) -> Any:
    """Open the datasets.Dataset that save_to_disk put into a folder, or that parquet files hold. Raises OSError, UserError."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{address}: needs Hugging Face's library: pip install 'dinolab[datasets]'") from error
    with as_os_error():
        if is_saved(address):
            return datasets.Dataset.load_from_disk(address)
        return datasets.Dataset.from_parquet(files)


def find_image_column(features: Any) -> str:
    """The first column of type Image, else the first of bytes and path, else one of bytes under a name in BINARY_NAMES, else ""."""
    import datasets

    images = (name for name, feature in features.items() if isinstance(feature, datasets.Image))
    pairs = (name for name, feature in features.items() if isinstance(feature, dict) and is_bytes(feature.get("bytes")))
    plain = (name for name in BINARY_NAMES if is_bytes(features.get(name)))
    return next(chain(images, pairs, plain), "")


def check_image_column(features: Any, request: Request) -> None:
    """Raises UserError where the column of images that the user chose is not there or holds none, or where none is found."""
    import datasets

    column, named = request.columns.image_column, request.named
    if not column and not find_image_column(features):
        raise UserError(
            f"{named}: no column of images, only: {some(list(features), MOST_NAMED, ', ')}; a column of mere bytes is found by "
            f"the name {' or '.join(BINARY_NAMES)}, and by any name with {request.key('image_column')}=NAME"
        )
    if column and column not in features:
        raise UserError(f"{named} has {request.lacks('image_column', list(features))}")
    feature = features[column] if column else None
    pair = feature.get("bytes") if isinstance(feature, dict) else feature
    if column and not (isinstance(feature, datasets.Image) or is_bytes(pair)):
        raise UserError(f"{named}: column {column!r} holds no images")


def is_bytes(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def label_reader(feature: Any) -> Callable[[Any], str] | None:
    """A function from a column's value to the label, "" where there is none; None if a column of this type holds no labels."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return lambda value: str(feature.names[value]) if value in range(len(feature.names)) else ""
    if isinstance(feature, datasets.Value) and feature.dtype.startswith(
        ("string", "large_string", "int", "uint", "bool")
    ):
        return lambda value: "" if value is None else str(value)
    return None


DATASET = Dataset()
