"""A copy of the Markdown pages in which every link stays within the site.

On a code host a page may link to any file of the repository. The site holds the folder docs/; a linked file from elsewhere is copied
to project/ of the site, and the link is changed to it.
"""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")  # without addresses, which have a colon
ELSEWHERE = Path("project")


def stage(root: Path, into: Path, also: Iterable[str] = ()) -> None:
    """Copy docs/ of a repository, with the files that its pages link to.

    Args:
        root: the repository.
        into: the folder that is written; what was in it is deleted.
        also: files outside of docs/ that become pages, too, relative to root.
    """
    root = root.resolve()
    shutil.rmtree(into, ignore_errors=True)
    todo = [file for file in sorted((root / "docs").rglob("*")) if file.is_file()] + [root / name for name in also]
    seen = set(todo)
    for file in todo:  # grows while linked files are found
        target = into / place(file, root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix != ".md":
            shutil.copyfile(file, target)
            continue
        text, linked = with_links_within(file, root)
        target.write_text(text)
        todo += [one for one in linked if one not in seen]
        seen |= set(linked)


def place(file: Path, root: Path) -> Path:
    """Where a file of the repository is in the site."""
    docs = root / "docs"
    return file.relative_to(docs) if file.is_relative_to(docs) else ELSEWHERE / file.relative_to(root)


def with_links_within(page: Path, root: Path) -> tuple[str, list[Path]]:
    """A page's text with the links that it has in the site, and the files of the repository that it links to."""
    linked: list[Path] = []

    def change(match: re.Match) -> str:
        file = Path(os.path.normpath(page.parent / match[2]))
        if not (file.is_file() and file.is_relative_to(root)):
            return match[0]  # the builder warns of it
        linked.append(file)
        new = os.path.relpath(place(file, root), place(page, root).parent)
        return f"{match[1]}{new}{match[3]}"

    return LINK.sub(change, page.read_text()), linked
