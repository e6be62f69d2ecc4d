"""The base class of all kinds of sources: how a kind finds its images, and how it reads one of them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dinolab.data.addresses import absolute, is_remote
from dinolab.data.locations import join
from dinolab.errors import UserError, nearest, some
from dinolab.options import Columns
from dinolab.pixels import RGB, Pixels

Count = Callable[[int], None]  # to be called with the number of images found so far
MOST_NAMED = 20  # columns in a message


@dataclass(frozen=True)
class Request:
    """The source that a user named, and the options that say how to read it."""

    path: str  # without the prefix that chooses a kind
    named: str  # "OPTION=PATH", as the user wrote it, for messages
    option: str = "data.path"
    columns: Columns = field(default_factory=Columns)

    def key(self, option: str) -> str:
        """An option of `columns` as the user writes it: a training's begin with data."""
        return f"data.{option}" if self.option.startswith(("data.", "eval.")) else option

    def lacks(self, option: str, columns: Sequence[str]) -> str:
        """What is wrong where the column that an option of `columns` names is not there, for a message: "no column ..."."""
        name, key = getattr(self.columns, option), self.key(option)
        near = nearest(name, columns)
        hint = f"did you mean {key}={near}?" if near else f"set {key}"
        return f"no column {name!r}, only: {some(columns, MOST_NAMED, ', ') or 'none at all'}; {hint}"

    @property
    def address(self) -> str:
        """The absolute path, or the address of remote storage as it was written."""
        return absolute(self.path)

    def local_address(self) -> str:
        """The absolute path. Raises UserError for an address of remote storage."""
        if is_remote(self.path):
            raise UserError(
                f"{self.named}: only tar shards are read from remote storage; copy the file to a local disk, or pack its images "
                "into shards"
            )
        return self.address


@dataclass(frozen=True)
class Listing:
    """The images of a source."""

    names: list[str]  # files relative to `root`; without a root, the parts of each image's location, joined by NUL
    labels: list[str] | None  # the class of each image
    unlabelled: str = ""  # why there are no labels
    root: str = ""  # an absolute path if each image is a file of its own
    folders: dict[str, int] = field(default_factory=dict)  # time of modification (ns) of the folders that were listed
    located: bool = False  # whether the names are whole locations, of images in other sources

    def locations(self, kind: str) -> list[str]:
        """The location of each image, given the name of the source's kind."""
        if self.located:
            return self.names
        if self.root:
            return [os.path.join(self.root, name) for name in self.names]
        return [join(kind, name) for name in self.names]


class Kind:
    """A kind of source. To add one, derive from this class in a file of its own, and add a line to KINDS in `kinds.py`."""

    title: str  # what a user may name, for the message that lists all kinds
    pixels: Pixels = RGB  # what its images look like
    sequences: bool = False  # whether they are frames, in order, of what the first part of a location names

    def claims(self, path: str) -> bool:
        """Whether a path without a prefix, or a remote address, is a source of this kind; the first kind that claims it gets it."""
        return False

    def files(self, request: Request) -> list[str]:
        """Addresses of the files whose change makes a kept listing useless. Raises OSError or UserError."""
        return []

    def is_current(self, listing: Listing) -> bool:
        """Whether a kept listing, whose files have not changed, still describes the source. May raise OSError for no."""
        return True

    def list_images(self, request: Request, files: list[str], count: Count) -> Listing:
        """All images of the source, in a fixed order.

        Args:
            files: what `files` returned.
            count: function to call, now and then, with the number of images found so far.

        Raises:
            UserError, OSError: there are no images, or they cannot be listed.
        """
        raise NotImplementedError

    def read(self, parts: Sequence[str]) -> bytes:
        """The encoded image whose location has these parts; called in any process and thread.

        Never called for images that are files of their own. Any exception it raises but UserError becomes an OSError.
        """
        raise NotImplementedError

    def describe(self, parts: Sequence[str]) -> str:
        """The same location in words, for messages."""
        return ": ".join(parts)

    def forget(self) -> None:
        """Close what `read` keeps open: files may have been replaced since."""
