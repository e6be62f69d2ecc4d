"""Parquet files: tables that are written whole or not at all, and checked when they are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinolab.errors import UserError
from dinolab.files import beside


def arrow() -> Any:
    """The package pyarrow. Raises UserError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("curated sets need pyarrow: pip install 'dinolab[curate]'") from error
    return pyarrow


def write_table(file: Path, table: Any) -> None:
    """Write a pyarrow.Table to a Parquet file."""
    with beside(file) as place:
        arrow().parquet.write_table(table, place, compression="zstd")


def read_table(file: Path, columns: Mapping[str, str], way_out: str) -> Any:
    """Some columns of a Parquet file, as a pyarrow.Table.

    Args:
        columns: their names, and the names of their types in pyarrow.
        way_out: what to do about a file that is missing or damaged, for the message.

    Raises:
        UserError: the file cannot be read, lacks a column, or has a column of another type.
    """
    pa = arrow()
    try:
        table = pa.parquet.ParquetFile(file).read(columns=list(columns))
        table.validate(full=True)  # or a damaged file could end the process
        fields = [(name, getattr(pa, kind)()) for name, kind in columns.items()]
        return table.select(list(columns)).cast(pa.schema(fields, metadata=table.schema.metadata))
    except (OSError, LookupError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file}: missing or damaged ({reason}); {way_out}") from error
