"""The images that are in, with their embeddings, as Parquet files for other tools.

    DIR/export.json                         the manifest: options, and the manifests of the set, the first one first
    DIR/data/train-00000-of-00012.parquet   a row for each image

The names are those under which Hugging Face's `datasets` finds the files of a folder. Each file is written whole or not at all.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dinolab.config import to_dict
from dinolab.curation.decisions import before, lineage_of
from dinolab.curation.options import ExportOptions
from dinolab.data.addresses import REQUESTS
from dinolab.data.decode import BrokenImage, read_file
from dinolab.data.locations import split
from dinolab.data.storage import describe
from dinolab.data.tables import arrow
from dinolab.errors import UserError
from dinolab.features.loading import DIGEST
from dinolab.features.store import Store, write_manifest
from dinolab.files import beside
from dinolab.progress import progress_bar
from dinolab.schemas import read_object

MANIFEST = "export.json"
AT_ONCE = 100  # images in memory, and in a row group
IS_IMAGE = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}


def export(store: Store, options: ExportOptions, progress: bool = False) -> dict[str, int]:
    """Write the images that are in. Files that are there already, of the same set and options, stay.

    Columns: image {bytes, path}, label, embedding (D,), location, width, height; the label is empty without one.

    Returns:
        The number of "images" and "files", and of files that were "there".

    Raises:
        UserError: the folder holds something else, or an image is no longer what was embedded.
    """
    rows, folder = before(store), Path(options.to).expanduser()
    files = -(-len(rows) // options.per_file)
    open_folder(folder, manifest_of(store, options, len(rows), files))
    there = 0
    with progress_bar(f"export of {store.folder.name}", len(rows), progress) as advance:
        for number, part in enumerate(np.split(rows, range(options.per_file, len(rows), options.per_file))):
            file = folder / "data" / f"train-{number:05d}-of-{files:05d}.parquet"
            if file.is_file():
                there += 1
                advance(len(part))
            else:
                write_file(file, store, part, options, advance)
    return {"images": len(rows), "files": files, "there": there}


def manifest_of(store: Store, options: ExportOptions, images: int, files: int) -> dict[str, Any]:
    chosen = {name: value for name, value in to_dict(options).items() if name != "to"}
    figures = {"images": images, "files": files}
    return {"options": chosen, "figures": figures, "lineage": lineage_of(store.folder), "dinolab": version("dinolab")}


def open_folder(folder: Path, manifest: dict[str, Any]) -> None:
    """Make the folder and write its manifest. Raises UserError where it holds anything but the beginning of the same export."""
    file = folder / MANIFEST
    if file.is_file():
        if {**read_object(file), "dinolab": ""} != {**manifest, "dinolab": ""}:
            raise UserError(f"to={folder}: holds an export of another set or with other options; name another folder")
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"to={folder}: a file; name a new folder")
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"to={folder}: not empty; name a new folder")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    write_manifest(file, manifest)


def write_file(
    file: Path, store: Store, rows: np.ndarray, options: ExportOptions, advance: Callable[[int], None]
) -> None:
    """Write one file, some images at a time; `rows` are those of the store, int64 (n,)."""
    pa = arrow()
    schema = schema_of(store, options)
    with (
        beside(file) as place,
        pa.parquet.ParquetWriter(place, schema, compression="zstd", use_dictionary=["label"]) as writer,
        ThreadPoolExecutor(REQUESTS) as pool,
    ):
        for first in range(0, len(rows), AT_ONCE):
            part = rows[first : first + AT_ONCE]
            columns = {name: store.rows[name][part] for name in ("location", "label", "width", "height")}
            places = columns["location"].tolist()
            columns["location"] = [describe(place) for place in places]
            if options.images:
                columns["image"] = list(
                    pool.map(read_image, places, store.rows["digest"][part], [store.folder] * len(part))
                )
            if options.embeddings != "none":
                flat = store.vectors(part).numpy().astype(options.embeddings).ravel()
                columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), store.manifest["width"])
            writer.write_table(pa.table({name: columns[name] for name in schema.names}, schema))
            advance(len(part))


def schema_of(store: Store, options: ExportOptions) -> Any:
    """The pyarrow.Schema of a file; it tells `datasets` that the column image holds images."""
    pa = arrow()
    number = {"float32": pa.float32(), "float16": pa.float16()}.get(options.embeddings)
    fields = [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))] if options.images else []
    fields += [("label", pa.string())]
    fields += [("embedding", pa.list_(number, store.manifest["width"]))] if number else []
    fields += [("location", pa.string()), ("width", pa.int32()), ("height", pa.int32())]
    return pa.schema(fields, IS_IMAGE if options.images else None)


def read_image(location: str, embedded: bytes, folder: Path) -> dict[str, Any]:
    """An image as the file holds it, and the file's name. Raises UserError where it is no longer what was embedded."""
    way_out = f"give `dinolab curate embed {folder}` with its data= again"
    try:
        data = read_file(location)
    except BrokenImage as error:
        raise UserError(f"{error}; {way_out}") from error
    if hashlib.blake2b(data, digest_size=DIGEST).digest() != embedded:
        raise UserError(f"{describe(location)}: has changed since it was embedded; {way_out}")
    return {"bytes": data, "path": split(location)[1][-1].rsplit("/", 1)[-1]}
