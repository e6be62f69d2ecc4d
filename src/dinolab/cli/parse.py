"""What the verbs' command lines share."""

import argparse
from collections.abc import Callable


def at_least(low: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {low} or more")
        return int(text)

    return number


def size_in_bytes(text: str) -> int:
    number, factor = text[:-1], {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:].upper())
    if factor is None:
        number, factor = text, 1
    if not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, as 500M or 1G")
    return int(number) * factor


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return number


def split_config(args: argparse.Namespace) -> list[str]:
    """The key=value words; args.config is None where there is no recipe before them."""
    if args.config and "=" in args.config:
        args.options.insert(0, args.config)
        args.config = None
    return args.options
