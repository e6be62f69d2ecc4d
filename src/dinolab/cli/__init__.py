"""dinolab VERB [CONFIG.yaml] [key=value ...]

A file for each family of verbs; its `add` describes them to argparse, and what it needs is imported when a verb runs.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from dinolab.cli import bench, data, evaluate, export, report, show, train
from dinolab.cli import job as recipe
from dinolab.errors import LostContact, UserError

WAYS_OUT = {"size": "a smaller --size", "batch_size": "a smaller --batch-size", "device": "another --device"}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 a mistake the user can mend, 128 + signal when stopped by one (the state is saved)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    top = parser()
    args, rest = top.parse_known_args(argv)  # argparse does not take options between positional words
    if rest and (not hasattr(args, "options") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    args.options = [*getattr(args, "options", []), *rest]
    try:
        return args.verb(args)
    except (UserError, OSError) as error:
        print(f"dinolab: {error}", file=sys.stderr, flush=True)
        if isinstance(error, LostContact):
            os._exit(2)
        return 2
    except RuntimeError as error:
        from dinolab.errors import reason  # here, for torch comes with it

        if "out of memory" not in reason(error):
            raise
        ways = " or ".join(way for name, way in WAYS_OUT.items() if hasattr(args, name))
        print(f"dinolab: out of memory{ways and ': try '}{ways}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="dinolab", description="Self-supervised vision on your own images.")
    verbs = top.add_subparsers(title="verbs", required=True, metavar="VERB")
    for family in (train, recipe, evaluate, show, report, export, data, bench):
        family.add(verbs)
    return top
