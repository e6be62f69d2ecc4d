"""A CSV file with a column of file names and, perhaps, a column of labels."""

import csv

from dinolab.data.addresses import is_file_name
from dinolab.data.sources.image_folder import find_image_folder, holds_one_of
from dinolab.data.sources.kind import Count, Kind, Listing, Request
from dinolab.errors import UserError


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
        return Listing(names, labels, unlabelled, find_image_folder(names, files[0], request, guess=True))


def read_csv(file_name: str, request: Request, count: Count) -> tuple[list[str], list[str] | None, str]:
    """Names of the images, their labels if every row has one, and why there are no labels.

    Raises UserError if there is no column of file names, or a row without one.
    """
    names: list[str] = []
    labels: list[str] = []
    unlabelled = ""
    name_column, label_column = request.filename_column, request.label_column
    with open(file_name, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, skipinitialspace=True)
        columns = list(rows.fieldnames or [])
        if name_column not in columns:
            raise UserError(
                f"{request.named} has no column {name_column!r}, only: {', '.join(columns) or 'none at all'}; "
                "set data.filename_column to the one with the file names"
            )
        if label_column not in columns:
            unlabelled = f"no column {label_column!r}, only: {', '.join(columns)}; set data.label_column"
        for row in rows:
            if not row[name_column]:
                raise UserError(f"{request.named}, line {rows.line_num}: column {name_column!r} is empty")
            names.append(row[name_column])
            labels.append(row.get(label_column) or "")
            if not labels[-1] and not unlabelled:
                unlabelled = f"column {label_column!r} is empty in line {rows.line_num}"
            count(len(names))
    return names, None if unlabelled else labels, unlabelled


CSV = CsvFile()
