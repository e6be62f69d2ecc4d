"""The command line: `dinolab VERB [WHAT] [positionals] [key=value ...]`.

verbs.py lists the verbs, a file for each family describes and runs them; grammar.py parses, help.py explains, completion.py serves shells.
What a verb needs is imported when it runs.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper

import dinolab
from dinolab.cli.grammar import Family, find, parse, usage
from dinolab.cli.help import help_text, wants_help
from dinolab.cli.verbs import ROOT
from dinolab.errors import OUT_OF_MEMORY, LostContact, UserError, lacking, one_line

# options that need less memory with a smaller value
SMALLER = (
    "size",
    "batch",
    "batch_size",
    "workers",
    "run.micro_batch",
    "views.global_size",
    "model.size",
    "run.workers",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, by default this process's own.

    Returns:
        The exit status: 0 when done, 1 where some runs of a grid failed, 2 for a mistake that the user can mend, 128 + signal when
        stopped by one (the state is saved).
    """
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks must not end the command
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, handlers=[log_handler()])
    logging.getLogger("dinolab").setLevel(logging.INFO)  # such as where the split of a set is kept
    words = list(sys.argv[1:] if argv is None else argv)
    known: Sequence[str] = ()
    try:
        if words[:1] == ["--version"]:
            print(f"dinolab {dinolab.__version__}")
            return 0
        if not words or wants_help(words):
            print(help_text(ROOT, words or ["--help"]), flush=True)
            return 0
        place = find(ROOT, words)
        if isinstance(place.at, Family):
            members = ", ".join(place.at.members())
            raise UserError(f"{place.at.noun.upper()} is missing, one of {members}: {usage(place)}")
        known = list(place.at.own_options)
        return place.at.run(*parse(place))
    except BrokenPipeError:  # the reader, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        text = lacking(error) or (str(error) if isinstance(error, UserError | OSError) else "")
        if not text:
            raise
        print(
            f"dinolab: {one_line(text)}{ways_out(known) if text == OUT_OF_MEMORY else ''}", file=sys.stderr, flush=True
        )
        if isinstance(error, LostContact):
            os._exit(2)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


class OneLine(logging.Formatter):
    """Warnings as single lines: they name files, whose names may hold anything."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


def log_handler() -> logging.Handler:
    """The handler that prints warnings on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(message)s"))
    return handler


def ways_out(names: Sequence[str]) -> str:
    """Which of a verb's options would need less memory."""
    ways = [f"a smaller {name}=" for name in SMALLER if name in names]
    ways += ["another device="] if "device" in names else []
    return f": try {' or '.join(ways)}" if ways else "; end other programs, or use a machine with more"
