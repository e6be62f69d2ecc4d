"""Human Action Recognition in any form in which it can be downloaded, as a folder in Kaggle's layout:

Training_set.csv (filename,label) and train/; Testing_set.csv (filename) and test/; in some copies Testing_labels.csv (filename,label).
"""

import lzma
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinolab.data.addresses import find_files
from dinolab.data.sources.dataset import list_rows, read_row
from dinolab.data.sources.kind import Request
from dinolab.errors import UserError
from dinolab.evals.results import write_csv
from dinolab.options import Columns

TRAINING, TESTING, TEST_LABELS = "Training_set.csv", "Testing_set.csv", "Testing_labels.csv"
LABEL_COLUMNS = ("labels", "label")  # of a Hugging Face copy
DAMAGED = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error, lzma.LZMAError, ValueError)
FORMS = "the folder or zip as downloaded from Kaggle, or a Hugging Face copy: a folder of save_to_disk's or of parquet files, or hf:NAME"


def find_layout(data: str, unpacked: Path) -> Path:
    """The folder that holds Training_set.csv: `data`, a folder below it, or `unpacked`, which is made once from a zip or a dataset.

    Raises:
        UserError: `data` is none of these, or damaged.
    """
    if not data:
        raise UserError(f"data= is not set: name {FORMS}")
    path = Path(data).expanduser()
    if not data.startswith("hf:") and not path.exists():
        raise UserError(f"data={data}: no such file or folder; name {FORMS}")
    if data.startswith("hf:"):
        return layout_in(once(unpacked, data, lambda to: download(data.removeprefix("hf:"), to)), data)
    if path.suffix.lower() == ".zip":
        origin = f"{path.name}, {path.stat().st_size:,} bytes"
        return layout_in(once(unpacked, origin, lambda to: unzip(path, to)), data)
    if path.is_dir() and any(path.glob("*/*.arrow")):
        tables = {part: str(path / part) for part in ("train", "test")}
        return once(unpacked, path.name, lambda to: convert(tables, to))
    if path.is_dir() and (parquet := next((p for p in (path, path / "data") if any(p.glob("train*.parquet"))), None)):
        tables = {part: str(parquet / f"{part}*.parquet") for part in ("train", "test")}
        return once(unpacked, path.name, lambda to: convert(tables, to))
    if path.is_dir() and any(path.glob("*.arrow")):
        raise UserError(f"data={data}: one part of a dataset; name the folder that holds it, {path.resolve().parent}")
    return layout_in(path, data)


def layout_in(folder: Path, data: str) -> Path:
    found = next((f for pattern in ("", "*/", "*/*/") for f in sorted(folder.glob(pattern + TRAINING))), None)
    if found is None:
        raise UserError(
            f"data={data}: no {TRAINING} in it or below; name {FORMS}. For images of your own see docs/my-own-data.md"
        )
    return found.parent


def once(folder: Path, origin: str, make: Callable[[Path], None]) -> Path:
    """Make the folder, unless it exists: under another name and renamed at the end, so that it is complete or not there.

    Raises:
        UserError: it exists and was made from something else than `origin`.
    """
    note = folder / "origin.txt"
    if not folder.is_dir():
        beside = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            make(beside)
            (beside / note.name).write_text(origin, encoding="utf-8")
            beside.replace(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    elif note.is_file() and (before := note.read_text(encoding="utf-8")) != origin:
        raise UserError(f"{folder} holds the images of {before}, not of {origin}; give another out=")
    return folder


def unzip(file: Path, to: Path) -> None:
    """Unpack a zip. Raises UserError where it is damaged, or holds more than the disk has room for."""
    try:
        with zipfile.ZipFile(file) as opened:
            size = sum(
                member.file_size for member in opened.infolist()
            )  # no member is unpacked beyond the size it declares
            free = shutil.disk_usage(to).free
            if size > free:
                raise UserError(
                    f"data={file}: its files are {size / 1e9:,.1f} GB unpacked, and {free / 1e9:,.1f} GB are free at {to.parent}"
                )
            opened.extractall(to)
        layout_in(to, str(file))
    except OSError as error:
        raise UserError(f"data={file}: cannot be unpacked into {to.parent} ({error.strerror or error})") from error
    except DAMAGED as error:
        raise UserError(f"data={file}: not a whole zip ({error}); download it again") from error


def download(name: str, to: Path) -> None:
    """Download a dataset of the Hugging Face hub and write it in the layout."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"data=hf:{name}: needs Hugging Face's library: pip install 'dinolab[datasets]'") from error
    try:
        parts = datasets.load_dataset(name)
    except Exception as error:  # any of the libraries below may raise its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"data=hf:{name}: cannot be downloaded ({reason}); download the set, and name its folder"
        ) from error
    saved = to / "hub"
    parts.save_to_disk(saved)
    convert({part: str(saved / part) for part in ("train", "test")}, to)
    shutil.rmtree(saved)


def convert(tables: dict[str, str], to: Path) -> None:
    """Write the rows of the tables at these addresses as files that are named by their numbers."""
    for part, sheet in (("train", TRAINING), ("test", TESTING)):
        address, files = tables[part], find_files(tables[part], ".parquet")
        if not (Path(address).is_dir() or Path(files[0]).is_file()):
            if part == "train":
                raise UserError(f"{address}: no such part of the dataset; name {FORMS}")
            continue
        rows, labels = labelled_rows(address, files)
        if part == "train" and labels is None:
            raise UserError(f"{address}: no labels; its columns {' and '.join(LABEL_COLUMNS)} were looked for")
        names = [f"Image_{number}.jpg" for number in range(1, len(rows) + 1)]
        (to / part).mkdir()
        for number, name in enumerate(names):
            (to / part / name).write_bytes(read_row(address, number))
        if part == "train":
            write_csv(to / sheet, ["filename", "label"], zip(names, labels or ()))
            continue
        write_csv(to / sheet, ["filename"], ((name,) for name in names))
        if labels and len(set(labels)) > 1:  # one label for all rows stands for labels that are not public
            write_csv(to / TEST_LABELS, ["filename", "label"], zip(names, labels))


def labelled_rows(address: str, files: list[str]) -> tuple[list[str], list[str] | None]:
    found: Any = None
    for column in LABEL_COLUMNS:
        listing = list_rows(Request(address, address, "data", Columns(label_column=column)), files)
        if listing.labels is not None or found is None:
            found = listing.names, listing.labels
    return found
