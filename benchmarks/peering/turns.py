"""What a script that makes training steps on request says to the main program. It needs nothing but Python's own library.

The main program starts the script with its case as JSON, and with the number of a pipe for the answers, so that nothing that a
library prints gets among them. The script prepares itself, and then makes one step for each line on its standard input. An answer is
a line of JSON.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any


class Turns:
    """Times of the two parts of each step: making the batch from image files, and computing with it."""

    def __init__(self) -> None:
        self.case: dict[str, Any] = json.loads(sys.argv[1])
        self.answers = os.fdopen(int(sys.argv[2]), "w")
        self.before = self.loading = (0.0, 0.0)

    def ready(self, *packages: str) -> None:
        """Say that everything is prepared, and in which versions; wait for the first turn."""
        import torch

        versions = {name: version(name) for name in packages} | {"torch": str(torch.__version__)}
        self.answer({"versions": versions, "threads": torch.get_num_threads()})
        self.wait()

    def loaded(self) -> None:
        """The batch is there: the step begins."""
        self.loading = self.lap()

    def stepped(self, loss: float) -> None:
        """The weights, and those of the teacher, are updated: the step ends. Wait for the next turn."""
        (wall, cpu), (load_wall, load_cpu) = self.lap(), self.loading
        self.answer({"wall": wall, "cpu": cpu, "load_wall": load_wall, "load_cpu": load_cpu, "loss": loss})
        self.wait()

    def wait(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)  # no more turns; a trainer around this call would otherwise go on or save
        self.before = clocks()

    def lap(self) -> tuple[float, float]:
        """Wall-clock and CPU seconds since the last lap."""
        before, self.before = self.before, clocks()
        return self.before[0] - before[0], self.before[1] - before[1]

    def answer(self, content: dict[str, Any]) -> None:
        self.answers.write(json.dumps(content) + "\n")
        self.answers.flush()


def clocks() -> tuple[float, float]:
    """Wall-clock seconds, and CPU seconds of this process with all its threads and ended children."""
    t = os.times()
    return time.perf_counter(), time.process_time() + t.children_user + t.children_system
