"""The values that an option takes, in words: for help texts and messages."""

import dataclasses
from typing import Any, get_args

from dinolab.fields import default_of


def range_in_words(f: dataclasses.Field) -> str:
    """The numbers an option takes: "0 to 1", "1 or more", "up to 10"; empty where there are no limits."""
    low, high = f.metadata.get("low"), f.metadata.get("high")
    if low is None:
        return "" if high is None else f"up to {in_words(high)}"
    return f"{in_words(low)} or more" if high is None else f"{in_words(low)} to {in_words(high)}"


def takes(f: dataclasses.Field) -> str:
    """The values of an option in words."""
    if f.metadata.get("duration"):
        return 'a length of training: "10 epochs", "500 steps", or "10%" of the whole run'
    if choices := f.metadata.get("choices"):
        return f"{'some' if get_args(f.type) else 'one'} of {', '.join(choices)}"
    kinds: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    inner = next(iter(get_args(f.type)), None)
    many = {int: "whole numbers", float: "numbers", str: "texts"}.get(inner, "values") if inner else ""
    default = default_of(f)
    count = f"{len(default)} " if many and default and inner is not str else ""
    text = f"{count}{many}, separated by commas" if many else kinds.get(f.type, "a value")
    limits = range_in_words(f)
    text = f"{text}: {limits}" if limits else text
    return ", or ".join([text, *f.metadata.get("named", {})])


def in_words(number: float) -> str:
    """1000 as 1,000; 0.00001 as 1e-05."""
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"
