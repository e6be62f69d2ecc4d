"""What a kind of input is: how valid files of it are made, how they are damaged, and which of dinolab's entry points read them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fuzzing.mutate import Form


class Kind(NamedTuple):
    """One kind of input."""

    make: Callable[[Path], None]  # writes valid files into an empty folder
    forms: dict[str, Form]  # the files to damage, by a pattern that names them in that folder, and how
    attempt: Callable[[Path, str], object]  # reads the folder, in which the file of this name is damaged

    def files(self, folder: Path) -> list[tuple[str, Form]]:
        """The files to damage, with their forms."""
        found = {
            str(file.relative_to(folder)): form
            for pattern, form in self.forms.items()
            for file in sorted(folder.glob(pattern))
        }
        return sorted(found.items(), key=lambda item: item[0])
