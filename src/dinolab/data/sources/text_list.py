"""A text file with the path of an image in each line, and perhaps its label behind it."""

import os

from dinolab.data.addresses import IMAGES, absolute, is_file_name
from dinolab.data.sources.image_folder import FIRST, find_images, holds_one_of
from dinolab.data.sources.kind import Count, Kind, Listing, Request
from dinolab.data.sources.text_file import read_text
from dinolab.errors import UserError


class TextList(Kind):
    title = "a text file of paths (.txt)"

    def claims(self, path: str) -> bool:
        return is_file_name(path, ".txt")

    def files(self, request: Request) -> list[str]:
        return [request.local_address()]

    def is_current(self, listing: Listing) -> bool:
        return holds_one_of(listing.root, listing.names)

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        text = read_text(files[0], request.named)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        folder = absolute(images) if (images := request.columns.images) else os.path.dirname(files[0])
        if has_labels(lines[:FIRST]) and not holds_one_of(folder, lines):
            return self.list_labelled(lines, files[0], request)
        names, folder = find_images(lines, files[0], request, guess=False)
        return Listing(names, None, "a text file of paths holds none; use a CSV file", folder)

    def list_labelled(self, lines: list[str], file: str, request: Request) -> Listing:
        """The images of a file whose lines are a path, blanks or a tab, and a label without blanks."""
        parts = [line.rsplit(maxsplit=1) for line in lines]
        if wrong := next((line for line, part in zip(lines, parts) if len(part) < 2), None):
            raise UserError(f"{request.named}: a path and a label in each line, but not in {wrong!r}")
        names, folder = find_images([path for path, _ in parts], file, request, guess=False)
        return Listing(names, [label for _, label in parts], "", folder)


def has_labels(lines: list[str]) -> bool:
    """Whether each line is the name of an image file with one more word behind it."""
    parts = [line.rsplit(maxsplit=1) for line in lines]
    return bool(lines) and all(len(part) == 2 and part[0].lower().endswith(IMAGES) for part in parts)


TEXT = TextList()
