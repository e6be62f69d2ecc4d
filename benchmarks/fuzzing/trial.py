"""One try: a damaged file is read in a process of its own, under a limit of time and of memory.

The process serves many tries, as starting it takes longer than one; after a failure a new one takes its place.
"""

import faulthandler
import logging
import multiprocessing
import os
import re
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import dinolab
from dinolab.data.decode import BrokenImage
from dinolab.errors import UserError
from fuzzing.kind import Kind

SECONDS = 5.0  # that a try may take
SLACK = 3.0  # seconds after which a process that cannot end itself is killed
MEMORY = 600 << 20  # bytes by which a try may raise the process' memory: the largest image that is decoded takes 512 MB
ADDRESSES = 4 << 30  # bytes by which its address space may grow: protects the machine
EXPECTED = (UserError, BrokenImage)
OWN = str(Path(dinolab.__file__).parent)


class Fault(NamedTuple):
    """Why a try has failed."""

    sort: str  # the exception's name, "crash", "time" or "memory"
    place: str  # the innermost line of dinolab's that was running
    trace: str


class Strict(logging.Handler):
    """Formats each message, so that one that cannot be formatted fails the try."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


class Reader:
    """Reads damaged files of a kind, in a process that is started anew after each failure."""

    def __init__(self, kind: Kind, template: Path) -> None:
        """
        Args:
            template: the valid files. The process reads them at this very place, as they name each other.
        """
        self.kind, self.template = kind, template
        self.process: multiprocessing.process.BaseProcess | None = None
        self.dump = template.with_name(f"{template.name}.trace")

    def start(self) -> None:
        context = multiprocessing.get_context("fork")  # what this process has imported need not be imported again
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, self.kind, self.template, self.dump), daemon=True)
        self.process.start()
        other.close()

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.join()
            self.pipe.close()
        self.process = None

    def read(self, name: str, content: bytes, refusable: bool = True) -> Fault | None:
        """One try with this content in the file of this name; None if it passes. A file that is not `refusable` has to be read."""
        file, whole = self.template / name, (self.template / name).read_bytes()
        file.write_bytes(content)
        try:
            if self.process is None:
                self.start()
            fault = self.ask(name, refusable)
        finally:
            file.write_bytes(whole)
        if fault:
            self.stop()
        return fault

    def ask(self, name: str, refusable: bool) -> Fault | None:
        assert self.process
        self.pipe.send((name, refusable))
        try:
            if self.pipe.poll(SECONDS + SLACK):
                return self.pipe.recv()
            self.process.kill()
        except (EOFError, ConnectionError):
            pass
        self.process.join()
        code, trace = self.process.exitcode or 0, self.dump.read_text(errors="replace")
        slow = code > 0 or code == -signal.SIGKILL
        return Fault(
            "time" if slow else f"crash {signal.Signals(-code).name}", place_in(trace, innermost_first=True), trace
        )


def serve(pipe: Connection, kind: Kind, folder: Path, dump: Path) -> None:
    """Read the file of each name that comes through the pipe, and answer with a Fault or None."""
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.DEBUG, handlers=[Strict()], force=True)
    tempfile.tempdir = str(folder.with_name(f"{folder.name}.scratch"))
    os.chdir(folder)
    limit = used("VmSize") + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with dump.open("w") as traces:
        faulthandler.enable(traces)
        while True:
            name, refusable = pipe.recv()
            traces.truncate(0)
            traces.seek(0)
            pipe.send(attempt(kind, folder, name, EXPECTED if refusable else (), traces))


def attempt(kind: Kind, folder: Path, name: str, expected: tuple[type[Exception], ...], traces: object) -> Fault | None:
    Path("/proc/self/clear_refs").write_text("5")  # the highest use of memory is measured from here
    before = used("VmRSS")
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=traces)  # type: ignore[arg-type]
    try:
        kind.attempt(folder, name)
    except expected:
        pass
    except BaseException as error:  # a library's SystemExit is a failure as well
        trace = traceback.format_exc()
        return Fault(type(error).__name__, place_in(trace), trace)
    finally:
        faulthandler.cancel_dump_traceback_later()
    grown = used("VmHWM") - before
    return Fault("memory", "", f"{grown / 1e6:,.0f} MB more than before\n") if grown > MEMORY else None


def make_quietly(kind: Kind, folder: Path) -> None:
    logging.disable()
    kind.make(folder)


def used(entry: str) -> int:
    """Bytes in an entry of /proc/self/status."""
    found = re.search(rf"^{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) << 10


def place_in(trace: str, innermost_first: bool = False) -> str:
    """The innermost line of dinolab's in a traceback, as FILE:LINE."""
    found = re.findall(rf'File "{re.escape(OWN)}/([^"]+)", line (\d+)', trace)
    return ":".join(found[0 if innermost_first else -1]) if found else ""


def make_template(kind: Kind, folder: Path) -> None:
    """Write the kind's valid files, in a process of its own: their libraries may start threads, which do not survive a fork."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.with_name(f"{folder.name}.scratch").mkdir(exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=make_quietly, args=(kind, folder))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{folder.name}: its valid files cannot be made")
