"""The exceptions for mistakes a user can mend, and for processes that are gone; and parts of messages."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something the user can mend: the message names the file or option and the way out.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


class LostContact(UserError):
    """Another process of the run is gone. Threads may still wait for it: the process had better not wait for them."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name that is most like a mistyped one; empty where none is near."""
    return next(iter(difflib.get_close_matches(word, list(known), 1, 0.5)), "")


def some(things: Sequence[str], most: int, between: str = "; ") -> str:
    """The first `most` things, and how many more there are."""
    rest = [f"and {len(things) - most:,} more"] if len(things) > most else []
    return between.join([*things[:most], *rest])


def reason(error: BaseException) -> str:
    """The error in one line, for a table or a message."""
    text = str(error).strip()
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:  # torch's, without importing it
        return "out of memory"
    return text.splitlines()[0] if text else type(error).__name__
