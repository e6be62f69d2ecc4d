"""Fuzzing: whatever dinolab reads is damaged at random, and each damaged file has to be read, or refused in one line.

    python benchmarks/fuzz.py --minutes 1
    python benchmarks/fuzz.py --only image,tar --seed 7 --keep faults --out fuzz.json

A try passes if it ends well, or in a UserError (or BrokenImage, for an image) within 5 s and 600 MB. Everything else is a failure: another
exception, a crash, a hang. For each distinct failure the smallest input is kept with its traceback. The same seed gives the same tries,
as far as the time allows: --tries ends after a number of them.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a pool of threads does not survive a fork

from fuzzing.data_kinds import KINDS as DATA
from fuzzing.kind import Kind
from fuzzing.option_kinds import KINDS as OPTIONS
from fuzzing.run_kinds import KINDS as RUN
from fuzzing.set_kinds import KINDS as SET
from fuzzing.trial import Fault, Reader, make_template
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dinolab.machine import environment

KINDS = DATA | OPTIONS | RUN | SET
SHORTENINGS = 60  # tries to make the input of a failure smaller, at most


@dataclass
class Found:
    """What fuzzing found of one kind."""

    tries: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # tries by sort of failure
    distinct: dict[tuple[str, str], tuple[str, bytes, Fault]] = field(
        default_factory=dict
    )  # by sort and place: file, input
    once: int = 0  # tries that failed, but not a second time in a new process


def fuzz(name: str, kind: Kind, seed: int, until: Callable[[int], bool], folder: Path) -> Found:
    """Try damaged files of a kind until `until(tries)` says that it is enough."""
    make_template(kind, folder)
    reader, found = Reader(kind, folder), Found()
    files, read_whole = kind.files(folder), set()
    while not until(found.tries):
        chance = random.Random(f"{seed} {name} {found.tries}")  # each try has its own: it can be repeated alone
        file, form = chance.choice(files)
        whole = (folder / file).read_bytes()
        if file not in read_whole and (fault := reader.read(file, whole, refusable=False)):
            raise RuntimeError(f"{name}: the undamaged {file} is not read: {fault.trace}")
        read_whole.add(file)
        content = form(whole, chance)
        found.tries += 1
        fault = reader.read(file, content)
        if fault is None:
            continue
        again = reader.read(file, content)
        if again is None:
            found.once += 1
            continue
        found.failed[again.sort] += 1
        key = (again.sort, again.place)
        known = found.distinct.get(key)
        if known is None:
            content, again = shorten(reader, file, content, again)
        if known is None or len(content) < len(known[1]):
            found.distinct[key] = (file, content, again)
    reader.stop()
    return found


def shorten(reader: Reader, file: str, content: bytes, fault: Fault) -> tuple[bytes, Fault]:
    """Leave out parts, halves first, as long as the same failure remains."""
    size, left = len(content) // 2, SHORTENINGS if fault.sort != "time" else 8
    while size and left:
        at = 0
        while at < len(content) and left:
            shorter, left = content[:at] + content[at + size :], left - 1
            now = reader.read(file, shorter)
            if now and (now.sort, now.place) == (fault.sort, fault.place):
                content, fault = shorter, now
            else:
                at += size
        size //= 2
    return content, fault


def keep(folder: Path, name: str, found: Found) -> None:
    """Write the smallest input of each distinct failure, and its traceback beside it."""
    for number, (file, content, fault) in enumerate(found.distinct.values(), 1):
        place = folder / f"{name}-{number:02d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / Path(file).name).write_bytes(content)
        (place / "traceback.txt").write_text(
            f"{file}\n{fault.sort} at {fault.place}\n\n{fault.trace}", errors="replace"
        )


def table(results: dict[str, Found]) -> Table:
    shown = Table("input", show_edge=False)
    for heading in ("tries", "failed", "distinct", "failed only once"):
        shown.add_column(heading, justify="right")
    shown.add_column("failures by sort")
    for name, found in results.items():
        sorts = ", ".join(f"{number:,} {sort}" for sort, number in found.failed.most_common())
        numbers = (found.tries, found.failed.total(), len(found.distinct), found.once)
        shown.add_row(name, *(f"{number:,}" for number in numbers), sorts)
    return shown


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="in all, shared equally by the kinds")
    parser.add_argument("--tries", type=int, help="of each kind, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_faults"), help="folder for the inputs that failed")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    if unknown := set(args.only.split(",")) - KINDS.keys():
        parser.error(f"--only={','.join(sorted(unknown))}: some of {','.join(KINDS)}")
    return args


def main() -> None:
    args = read_arguments()
    names = args.only.split(",")
    seconds = 60 * args.minutes / len(names)
    folder, results = Path(tempfile.mkdtemp(prefix="fuzz")), {}
    try:
        # without a thread that draws the bar: it would not survive a fork
        with Progress(console=Console(stderr=True), auto_refresh=False, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("", total=len(names))
            for number, name in enumerate(names):
                began = time.monotonic()

                def until(tries: int, name: str = name, number: int = number, began: float = began) -> bool:
                    share = max((time.monotonic() - began) / seconds, tries / args.tries if args.tries else 0)
                    bar.update(
                        task, completed=number + min(1, share), description=f"{name}: {tries:,} tries", refresh=True
                    )
                    return share >= 1

                results[name] = fuzz(name, KINDS[name], args.seed, until, folder / name)
                keep(args.keep, name, results[name])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    Console(width=None if sys.stdout.isatty() else 160).print(table(results))
    failed = any(found.failed for found in results.values())
    print(f"the inputs that failed are in {args.keep}" if failed else "no failures")
    if args.out:
        figures = {
            name: {
                "tries": found.tries,
                "failed": found.failed,
                "distinct": len(found.distinct),
                "failed_only_once": found.once,
            }
            for name, found in results.items()
        }
        content = {"seed": args.seed, "minutes": args.minutes, "kinds": figures, "environment": environment()}
        args.out.write_text(json.dumps(content, indent=2) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
