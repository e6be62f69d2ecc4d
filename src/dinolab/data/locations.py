"""Locations of images, as text that a Source holds and any process can read from.

An image in a file of its own has the file's absolute path as its location. Any other location is the name of a kind of source and
its parts, joined by NUL, which no path can hold: "shards", address of the tar file, offset and size, name of the member. The first
part is the address of the file or folder that holds the image; the last one names the image in it.
"""

PLAIN = ""  # in place of a kind's name, for images in files of their own


def join(kind: str, *parts: str) -> str:
    """The location of an image that a kind of source reads from these parts."""
    return "\0".join((kind, *parts))


def split(location: str) -> tuple[str, list[str]]:
    """The name of the kind and the parts; PLAIN and the path for an image in a file of its own."""
    kind, *parts = location.split("\0")
    return (kind, parts) if parts else (PLAIN, [location])
