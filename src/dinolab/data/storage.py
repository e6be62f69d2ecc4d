"""Reading images by their location (see `locations.py`), each by itself and in any order."""

from dinolab.data.addresses import as_os_error, read_regular
from dinolab.data.locations import PLAIN, split
from dinolab.data.sources.kinds import KINDS
from dinolab.errors import mask


def read_bytes(location: str) -> bytes:
    """The encoded image at a location.

    Raises:
        OSError: the image cannot be read, for whatever reason.
        UserError: a package that is needed to read it is not installed.
    """
    kind, parts = split(location)
    if kind == PLAIN:
        return read_regular(location)
    if kind not in KINDS:
        raise OSError(f"there is no kind of source named {kind!r}")
    with as_os_error():
        return KINDS[kind].read(parts)


def describe(location: str) -> str:
    """A location in words, for messages: "/data/shard-000.tar: cat/1.jpg", "/data/folder, row 17". Credentials are masked."""
    kind, parts = split(location)
    return mask(KINDS[kind].describe(parts) if kind in KINDS else location.replace("\0", " "))
