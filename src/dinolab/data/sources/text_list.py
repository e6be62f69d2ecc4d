"""A text file with the path of an image in each line."""

from dinolab.data.addresses import is_file_name
from dinolab.data.sources.image_folder import find_image_folder, holds_one_of
from dinolab.data.sources.kind import Count, Kind, Listing, Request


class TextList(Kind):
    title = "a text file of paths (.txt)"

    def claims(self, path: str) -> bool:
        return is_file_name(path, ".txt")

    def files(self, request: Request) -> list[str]:
        return [request.local_address()]

    def is_current(self, listing: Listing) -> bool:
        return holds_one_of(listing.root, listing.names)

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        with open(files[0], encoding="utf-8-sig") as file:
            names = [line.strip() for line in file if line.strip()]
        why = "a text file of paths holds none; use a CSV file"
        return Listing(names, None, why, find_image_folder(names, files[0], request, guess=False))


TEXT = TextList()
