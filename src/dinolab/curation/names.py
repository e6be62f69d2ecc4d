"""What people call the images of a set: their paths, ends of paths, or row numbers."""

from collections.abc import Iterable

from dinolab.data.storage import describe
from dinolab.errors import UserError


class Names:
    """The images of a store by their names."""

    def __init__(self, locations: Iterable[str]) -> None:
        """`locations` are those of the store's images, in its order."""
        self.names = [describe(location) for location in locations]
        self.by_end: dict[str, list[int]] = {}
        for row, name in enumerate(self.names):
            self.by_end.setdefault(last_part(name), []).append(row)

    def row(self, image: str) -> int:
        """The row of an image.

        Args:
            image: its path, or the end of it, as decisions.csv has it; or its row there, the first being 0.

        Raises:
            UserError: there is no such image, or there are several.
        """
        wanted = image.rstrip("/")
        ends = (f"/{wanted}", f": {wanted}")  # the latter within a tar file
        called = [row for row in self.by_end.get(last_part(wanted), []) if f"/{self.names[row]}".endswith(ends)]
        found = [row for row in called if self.names[row] == wanted] or called
        if not found and wanted.isdecimal() and int(wanted) < len(self.names):
            return int(wanted)
        if len(found) == 1:
            return found[0]
        several = f"{len(found)} images are called so; give more of the path"
        raise UserError(f"{image}: {several if found else 'no image of the set is called so'}")


def last_part(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(": ", 1)[-1]
