"""Work in parts, shared by several processes. A part is one file, which is whole or not there.

Each process writes some of the parts of a step: number r of W writes the parts r, r + W, and so on. Then it waits for the others, and
goes on with the next step once all parts are there. The processes see the same folder, and exchange nothing else. So each of them may
be killed, and their number may change between two calls: what is there is not done again.

    FOLDER/STEP/000000.safetensors   the arrays of a part
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from safetensors.numpy import save_file

from dinolab.errors import UserError
from dinolab.files import beside
from dinolab.parallel import from_environment, launched
from dinolab.progress import progress_bar, track

log = logging.getLogger(__name__)
# a part is late after these seconds, or after this many times the longest part of this process
PATIENCE, SLOWER = 300, 4
JOINED = 3600  # seconds that the first process may take to join the parts
POLL = 0.2  # seconds between two looks at the folder
KINDS = {"U8": "|u1", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}

T = TypeVar("T")
Part = Mapping[str, np.ndarray]
"""The arrays of a part by their names."""


class Crew(NamedTuple):
    """This process among those that share the work."""

    rank: int
    world: int


def crew() -> Crew:
    """The place of this process among those of torchrun, or among the tasks of a SLURM array; alone, (0, 1).

    Raises UserError where the variables that tell it are damaged.
    """
    rank, world = 0, launched()
    if world > 1:
        rank = from_environment("RANK", 0, world - 1)
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        names = ("ID", "MIN", "STEP", "COUNT")
        own, first, step, tasks = (slurm(f"SLURM_ARRAY_TASK_{name}", int(name in names[2:])) for name in names)
        rank, world = (own - first) // step % tasks * world + rank, tasks * world
    return Crew(rank, world)


def slurm(name: str, low: int) -> int:
    """The whole number in one of the variables of a SLURM array. Raises UserError where it is not from `low`."""
    text = os.environ.get(name, str(low))
    if not text.isdecimal() or int(text) < low:
        raise UserError(
            f"{name}={text}: a number from {low}, as SLURM sets it; to work alone, unset SLURM_ARRAY_TASK_ID"
        )
    return int(text)


def wait_for(look: Callable[[], T | None], what: str) -> T:
    """Look again and again for what the first process does, until it is there.

    Raises UserError, which begins with `what`, where it does not come.
    """
    since = time.monotonic()
    while (found := look()) is None:
        if time.monotonic() - since > JOINED:
            raise UserError(f"{what}; give the same command again when the other tasks have ended")
        time.sleep(POLL)
    return found


class Stored(Mapping[str, np.ndarray]):
    """The arrays of a part's file, each memory-mapped when it is asked for. Raises UserError where the file is damaged."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @cached_property
    def layout(self) -> dict[str, tuple[str, tuple[int, ...], int]]:
        """Type, shape and place in the file of each array."""
        try:
            with self.file.open("rb") as opened:
                begin = 8 + int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(begin - 8))
                end = opened.seek(0, 2)
            if end != begin + max(one["data_offsets"][1] for one in header.values()):
                raise ValueError("cut short")
            return {
                name: (KINDS[one["dtype"]], tuple(one["shape"]), begin + one["data_offsets"][0])
                for name, one in header.items()
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{self.file}: damaged ({text}); remove it, and give the same command again") from error

    def __getitem__(self, name: str) -> np.ndarray:
        kind, shape, place = self.layout[name]
        return np.memmap(self.file, kind, "r", place, shape) if 0 not in shape else np.empty(shape, kind)

    def __iter__(self) -> Any:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)


class Parts:
    """A folder of parts; without a folder, the parts are kept in memory, and this process makes them all."""

    def __init__(self, folder: Path | None = None, progress: bool = False) -> None:
        self.folder, self.progress = folder, progress
        self.crew = crew() if folder else Crew(0, 1)

    def one(self, name: str, make: Callable[[], Part]) -> Part:
        """The only part of a step, which the first process makes."""
        return self.each(name, 1, lambda number: make())[0]

    def each(
        self,
        name: str,
        count: int,
        make: Callable[[int], Part],
        title: str = "",
        is_over: Callable[[], bool] = lambda: False,
    ) -> Sequence[Part]:
        """All parts of a step. Returns when all of them are there.

        A part that another process should write, and that is late, is written by this one: the other may be gone.

        Args:
            name: of the step.
            count: number of parts.
            make: makes the part of a number. What it makes must depend on the number alone, and not on what was made before.
            title: what is being done, for the bar that shows progress.
            is_over: whether what is made of these parts is there. Then they are no longer needed, and may have been removed.
        """
        is_shown = self.progress and bool(title)
        if self.folder is None:
            return [make(number) for number in track(range(count), title, count, is_shown)]
        place = self.folder / name
        place.mkdir(parents=True, exist_ok=True)

        def write(number: int) -> None:
            file, made = part_file(place, number), make(number)
            if not file.exists():
                with beside(file) as writing:
                    save_file({key: np.ascontiguousarray(array) for key, array in made.items()}, writing)

        with progress_bar(title, count, is_shown) as advance:
            share_out(lambda: [] if is_over() else missing_parts(place, count), write, count, str(place), advance)
        return [Stored(part_file(place, number)) for number in range(count)]

    def find(self, name: str, count: int) -> Sequence[Part] | None:
        """All parts of a step if they are there, and else None."""
        if self.folder is None or missing_parts(self.folder / name, count):
            return None
        return [Stored(part_file(self.folder / name, number)) for number in range(count)]

    def remove(self, *names: str) -> None:
        """The first process removes the parts of steps that are no longer needed."""
        if self.folder is not None and self.crew.rank == 0:
            for name in names:
                shutil.rmtree(self.folder / name, ignore_errors=True)


def share_out(
    missing: Callable[[], list[int]],
    write: Callable[[int], None],
    count: int,
    name: str,
    advance: Callable[[int], None],
) -> None:
    """Write this process's parts of a step, and see to it that all others are there.

    Args:
        missing: looks which parts are not there yet; their numbers in rising order.
        write: writes a part.
        count: number of parts.
        name: what they are, for a warning.
        advance: is told how many more parts are there.
    """
    rank, world = crew()
    patience, since, left = float(PATIENCE), time.monotonic(), count + 1
    while lacking := missing():
        if len(lacking) < left:
            advance(min(left, count) - len(lacking))
            since, left = time.monotonic(), len(lacking)
        own = [number for number in lacking if number % world == rank]
        if not own and time.monotonic() - since < patience:
            time.sleep(POLL)
            continue
        number = own[0] if own else lacking[rank % len(lacking)]
        if not own:
            log.warning("%s: part %d of %d is late; this process makes it, too", name, number, count)
        began = time.monotonic()
        try:
            write(number)
        except UserError:
            if number in missing():  # else another process has written it, and may have removed what it is made of
                raise
        patience = max(patience, SLOWER * (time.monotonic() - began))
    advance(min(left, count))


def part_file(place: Path, number: int) -> Path:
    return place / f"{number:06d}.safetensors"


def missing_parts(place: Path, count: int) -> list[int]:
    there = {entry.name for entry in os.scandir(place)} if place.is_dir() else set()
    return [number for number in range(count) if part_file(place, number).name not in there]


def keyed(folder: Path, name: str, facts: dict[str, Any]) -> Path:
    """A folder for parts that depend on these facts. Those of the same name that depend on others are removed by the first process."""
    text = json.dumps(facts, sort_keys=True).encode()
    place = folder / f"{name}-{hashlib.sha256(text).hexdigest()[:16]}"
    if crew().rank == 0:
        for other in folder.glob(f"{name}-*"):
            if other != place:
                shutil.rmtree(other, ignore_errors=True)
    return place
