"""Processes that make steps in turns, A B C A B C, and what their times say."""

import json
import os
import select
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dinolab.memory import entry
from peering.environments import SETTINGS

PATIENCE = 900  # seconds that a process may take for one answer
FIGURES = ("wall", "cpu", "load_wall", "load_cpu")  # seconds
Step = dict[str, float]


class Failed(Exception):
    """A process ended or fell silent; the message is its last words."""


class Process:
    """A script that prepares itself, and then makes one step for each line that it gets; see turns.py.

    Args:
        command: the command line; the case as JSON, and the number of the pipe for answers, are appended.
        case: what the step is made of.
        log: file for what the script prints otherwise.
    """

    def __init__(self, command: Sequence[str | Path], case: dict[str, Any], log: Path):
        self.log = log
        answers, end = os.pipe()
        self.answers = os.fdopen(answers, "rb", buffering=0)
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*map(str, command), json.dumps(case), str(end)], pass_fds=[end], stdin=subprocess.PIPE, stdout=file, stderr=file,
                env=os.environ | SETTINGS, cwd=log.parent,
            )  # fmt: skip
        os.close(end)
        try:
            self.facts = self.answer()
        except Failed:
            self.stop()
            raise

    def step(self) -> Step:
        assert self.process.stdin
        try:
            self.process.stdin.write(b"go\n")
            self.process.stdin.flush()
        except OSError as error:
            raise Failed(self.last_words()) from error
        return self.answer()

    def answer(self) -> dict[str, Any]:
        if not select.select([self.answers], [], [], PATIENCE)[0]:
            raise Failed(f"no answer within {PATIENCE} s")
        line = self.answers.readline()
        if not line:
            self.process.wait()
            raise Failed(self.last_words())
        return json.loads(line)

    def last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"it ended with status {self.process.wait()}"

    def forget_peak(self) -> None:
        """Measure the peak of memory from now on (Linux)."""
        file = Path(f"/proc/{self.process.pid}/clear_refs")
        if os.access(file, os.W_OK):
            file.write_text("5")

    def peak(self) -> int | None:
        """Peak of resident memory in bytes; None on systems other than Linux."""
        file = Path(f"/proc/{self.process.pid}/status")
        return entry(file, "VmHWM") if file.exists() else None

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.answers.close()


def measure(starts: dict[str, Callable[[], Process]], warm_up: int, rounds: int) -> list[dict[str, Any]]:
    """Start all processes, let them make steps in turns, and return a row for each.

    A process that fails is left out from then on; its row has a "note" instead of figures.
    """
    processes: dict[str, Process] = {}
    steps: dict[str, list[Step]] = {name: [] for name in starts}
    notes: dict[str, str] = {}
    facts: dict[str, dict[str, Any]] = {}

    def attempt(name: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Failed as failure:
            notes[name] = str(failure)
            if name in processes:
                processes.pop(name).stop()
            return None

    try:
        for name, start in starts.items():
            print(f"preparing {name}", file=sys.stderr)
            if process := attempt(name, start):
                processes[name], facts[name] = process, process.facts
        for n in range(warm_up + rounds):
            for name, process in list(processes.items()):
                if n == warm_up:
                    process.forget_peak()
                if step := attempt(name, process.step):
                    print(f"{n + 1 - warm_up:3d}  {name}: {step['wall']:.2f} s", file=sys.stderr)
                    steps[name] += [step] if n >= warm_up else []
        peaks = {name: process.peak() for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.stop()
    return [
        {"name": name, "note": notes[name]}
        if name in notes
        else {"name": name, **facts[name], "peak_memory": peaks[name], **summary(steps[name]), "steps": steps[name]}
        for name in starts
    ]


def summary(steps: list[Step]) -> dict[str, float]:
    """The median of each figure, in seconds."""
    return {key: statistics.median(step[key] for step in steps) for key in FIGURES}


def times_ours(row: dict[str, Any], ours: dict[str, Any], key: str) -> list[float]:
    """A figure of each round over dinolab's in the same round: median, smallest and largest."""
    ratios = [a[key] / b[key] for a, b in zip(row["steps"], ours["steps"])]
    return [statistics.median(ratios), min(ratios), max(ratios)]
