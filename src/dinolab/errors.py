"""The exceptions for mistakes a user can mend, and for processes that are gone; and parts of messages."""

import difflib
import errno
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HIDDEN = "***"  # in place of a password or a key
LOGIN = re.compile(r"(?<=://)[^\s/\"'<>]*@")  # ftp://USER:PASSWORD@host/path
KEY = re.compile(
    r"([?&;][\w.-]*(?:token|key|secret|sig|signature|password|passwd|pwd|auth|credential|code)[\w.-]*=)[^&\s\"'<>]+",
    re.IGNORECASE,
)  # https://host/file?token=KEY
OUT_OF_MEMORY = "out of memory"
OPEN_FILES = (
    "too many files are open at once; raise the limit (ulimit -n), or use fewer processes that load images (workers)"
)
MEMORY = (  # parts of the messages by which PyTorch, oneDNN, CUDA's libraries, OpenCV and the system say that memory is short
    "out of memory", "can't allocate memory", "Cannot allocate memory", "not enough memory", "Insufficient memory", "bad_alloc",
    "could not create a primitive", "could not create a memory", "ALLOC_FAILED",
)  # fmt: skip
FULL = {errno.ENOSPC: "is full", getattr(errno, "EDQUOT", errno.ENOSPC): "is full for you: your quota is used up"}


class Told(Exception):
    """An exception whose message says all that the user needs: the command line and notebooks show no traceback of it.

    The message is one line without credentials, whatever the names in it hold.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """The lines that a notebook shows; IPython looks for a method of this name."""
        return [f"{type(self).__name__}: {self}"]


class UserError(Told):
    """Something the user can mend: the message names the file or option and the way out.

    The command line prints the message and exits with status 2.
    """


class LostContact(UserError):
    """Another process of the run is gone. Threads may still wait for it: the process had better not wait for them."""


def mask(text: str) -> str:
    """The text with *** in place of the credentials in its addresses."""
    if "://" not in text:
        return text
    return KEY.sub(rf"\1{HIDDEN}", LOGIN.sub(f"{HIDDEN}@", text))


def masked(tree: Any) -> Any:
    """Nested lists and mappings with every text masked."""
    if isinstance(tree, dict):
        return {key: masked(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [masked(value) for value in tree]
    return mask(tree) if isinstance(tree, str) else tree


def printable(text: str) -> str:
    """The text with escapes such as \\n and \\x1b in place of characters that are not printed: in a file's name they could move a
    terminal's cursor or begin a line that looks like one of ours."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def one_line(text: str) -> str:
    """A message as it is printed or written to a log: one line, without control characters and credentials."""
    return printable(mask(text))


def say(*texts: object) -> None:
    """Print each text on stdout as one line."""
    for text in texts:
        print(one_line(str(text)))


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name that is most like a mistyped one; empty where none is near."""
    return next(iter(difflib.get_close_matches(word, list(known), 1, 0.5)), "")


def counted(number: int, thing: str) -> str:
    """A number of things in words: "1 image", "2,000 images"."""
    return f"{number:,} {thing if number == 1 else f'{thing}s'}"


def some(things: Sequence[str], most: int, between: str = "; ") -> str:
    """The first `most` things, and how many more there are."""
    rest = [f"and {len(things) - most:,} more"] if len(things) > most else []
    return between.join([*things[:most], *rest])


def reason(error: BaseException) -> str:
    """The error in one line, for a table or a message."""
    text = str(error).strip()
    return lacking(error) or (text.splitlines()[0] if text else type(error).__name__)


def lacking(error: BaseException) -> str:
    """What the machine has too little of, if that is the reason of an error: memory, disk, open files or threads; else empty.

    Libraries report it by many kinds of exceptions, so it is recognised by their messages too.
    """
    text, number = str(error), getattr(error, "errno", None)
    if isinstance(error, UserError):
        return ""
    if isinstance(error, OSError) and number in FULL:
        file = getattr(error, "filename", None)
        disk = f"the disk of {Path(file).absolute().parent}" if isinstance(file, str | Path) else "the disk"
        return f"{disk} {FULL[number]}; free some space there and give the same command again, or write to another disk"
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(sign in text for sign in MEMORY)
    ):
        return OUT_OF_MEMORY
    if number == errno.EMFILE or "Too many open files" in text:
        return OPEN_FILES
    if "can't start new thread" in text:
        return "no more threads can be started; free memory, or raise the limit (ulimit -u)"
    return ""
