"""Links from pictures to the same images in `dinolab explore`, and the command that opens it where the links lead."""

import shlex
from pathlib import Path
from urllib.parse import quote

from dinolab.config import as_word
from dinolab.data.addresses import is_remote
from dinolab.data.locations import split
from dinolab.data.storage import describe
from dinolab.data.types import Source
from dinolab.options import EXPLORER_PORT


def link(location: str) -> str:
    """The address of an image in the explorer while that runs; empty for images that are not on this machine."""
    if is_remote(split(location)[1][0]):
        return ""
    return f"http://127.0.0.1:{EXPLORER_PORT}/#name={quote(describe(location), errors='surrogateescape')}"


def command(run: Path, images: Source) -> str:
    """The command that makes the links to these images work."""
    chosen = [f"{name}={as_word(value)}" for name, value in images.read_by.items()]
    return shlex.join(["dinolab", "explore", str(run), f"data={images.name}", *chosen])
