"""Values that take a while: computed once, in a thread beside the server, which says how far they are."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from dinolab.errors import UserError, reason

T = TypeVar("T")
Report = Callable[[float], None]  # to be called with the share that is done, from 0 to 1


class Busy(Exception):
    """A value is not there yet."""

    def __init__(self, done: float, message: str) -> None:
        super().__init__(message)
        self.done, self.message = done, message


class Later(Generic[T]):
    """A value that is computed when it is first asked for.

    Args:
        make: computes it; it gets a function that takes the share that is done.
        message: what is being done, in a few words.
    """

    def __init__(self, make: Callable[[Report], T], message: str) -> None:
        self.make, self.message = make, message
        self.done, self.begun = 0.0, False
        self.found: list[T] = []
        self.problem = ""
        self.lock = threading.RLock()

    def wait(self) -> T:
        """The value, computed in this thread if nobody has done so yet. Raises UserError where that is impossible."""
        with self.lock:
            if self.problem:
                raise UserError(self.problem)
            if not self.found:
                try:
                    self.found = [self.make(self.report)]
                except Exception as error:
                    told = isinstance(error, UserError)  # its message says all, also what was being done
                    self.problem = reason(error) if told else f"{self.message}: {reason(error)}"
                    raise UserError(self.problem) from error
            return self.found[0]

    def get(self) -> T:
        """The value; raises Busy where it is not there yet, and lets a thread begin with it."""
        if self.found or self.problem:
            return self.wait()
        if not self.begun:
            self.begun = True
            threading.Thread(target=self.run, daemon=True).start()
        raise Busy(self.done, self.message)

    def run(self) -> None:
        with suppress(UserError):  # it is kept, for whoever asks next
            self.wait()

    def report(self, done: float) -> None:
        self.done = done
