"""A CSV file with a column of file names and, perhaps, a column of labels."""

import csv
import io
from contextlib import suppress

from dinolab.data.addresses import is_file_name
from dinolab.data.sources.image_folder import find_images, holds_one_of
from dinolab.data.sources.kind import Count, Kind, Listing, Request
from dinolab.data.sources.text_file import read_text
from dinolab.errors import UserError

SEPARATORS = ",;\t|"


class CsvFile(Kind):
    title = "a CSV file (.csv)"

    def claims(self, path: str) -> bool:
        return is_file_name(path, ".csv")

    def files(self, request: Request) -> list[str]:
        return [request.local_address()]

    def is_current(self, listing: Listing) -> bool:
        return holds_one_of(listing.root, listing.names)

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        try:
            names, labels, unlabelled = read_csv(files[0], request, count)
        except csv.Error as error:
            raise UserError(f"{request.named}: not a CSV file ({error})") from error
        names, folder = find_images(names, files[0], request, guess=True)
        return Listing(names, labels, unlabelled, folder)


def read_csv(file_name: str, request: Request, count: Count) -> tuple[list[str], list[str] | None, str]:
    """Names of the images, their labels if every row has one, and why there are no labels.

    Raises UserError if there is no column of file names, or a row without one.
    """
    names: list[str] = []
    labels: list[str] = []
    unlabelled = ""
    name_column, label_column = request.columns.filename_column, request.columns.label_column
    text = read_text(file_name, request.named)
    separator = find_separator(text, name_column)
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, delimiter=separator)
    columns = [column or "" for column in rows.fieldnames or []]
    check_columns(columns, request)
    if label_column not in columns:
        unlabelled = request.lacks("label_column", columns)
    for row in rows:
        if not row[name_column]:
            raise UserError(f"{request.named}, line {rows.line_num}: column {name_column!r} is empty")
        names.append(row[name_column])
        labels.append(row.get(label_column) or "")
        if not labels[-1] and not unlabelled:
            unlabelled = f"column {label_column!r} is empty in line {rows.line_num}"
        count(len(names))
    return names, None if unlabelled else labels, unlabelled


def find_separator(text: str, name_column: str) -> str:
    """The first of the usual separators that makes the column of file names appear in the first line; a comma if none does."""
    first = text.split("\n", 1)[0].rstrip("\r")
    for separator in SEPARATORS:
        with suppress(csv.Error):  # which reading the whole file will meet, too
            if name_column in next(csv.reader([first], skipinitialspace=True, delimiter=separator), []):
                return separator
    return next((sign for sign in SEPARATORS if sign in first), ",")


def check_columns(columns: list[str], request: Request) -> None:
    """Raises UserError where the column of file names is missing, or a column that is needed is there twice."""
    if request.columns.filename_column not in columns:
        raise UserError(f"{request.named} has {request.lacks('filename_column', columns)}")
    for column in (request.columns.filename_column, request.columns.label_column):
        if columns.count(column) > 1:
            raise UserError(f"{request.named} has {columns.count(column)} columns {column!r}; rename all but one")


CSV = CsvFile()
