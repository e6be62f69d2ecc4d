"""What people call the images of a set: their paths, ends of paths, or row numbers; and names that a set cannot hold."""

import re
from collections.abc import Iterable

from dinolab.data.storage import describe
from dinolab.errors import UserError, printable

NO_TEXT = "\ud800-\udfff"  # what stands in Python for bytes that are not UTF-8
# Parquet takes no other text than UTF-8, and in.txt has a name on each line
UNFIT = re.compile(f"[\n\v\f\r\x1c-\x1e\x85\u2028\u2029{NO_TEXT}]")


def as_text(location: str) -> str:
    """A location, or another name, with escapes such as \\n in place of what a set cannot hold."""
    return UNFIT.sub(lambda found: printable(found[0]), location)


def problem_of(location: str) -> str:
    """Why a set cannot hold a location as it is; empty if it can."""
    if not UNFIT.search(location):
        return ""
    lacking = "is not in UTF-8" if re.search(f"[{NO_TEXT}]", location) else "holds a line break"
    return f"{describe(as_text(location))}: its name {lacking}; rename it"


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
        if not wanted:
            raise UserError("the name of the image is empty; give its path, or its row in decisions.csv")
        several = f"{len(found)} images are called so; give more of the path"
        raise UserError(f"{image}: {several if found else 'no image of the set is called so'}")


def last_part(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(": ", 1)[-1]
