"""Fields of dataclasses that are options: each with its documentation and the values that it takes. config.py sets them.

A duration is text with its unit: "10 epochs", "500 steps" or "10%" (of the whole run).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any

AUTO = -1  # of micro_batch: to be found at the start of a run


def option(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
    required: bool = False,
    check: Any = None,
    named: dict[str, Any] | None = None,
) -> Any:
    """A dataclass field with its line of documentation and the values it takes.

    Args:
        default: its type is the option's type: bool, int, float, str, or a list of these.
        low, high: smallest and largest number, either may be None; of a list, of each of its numbers.
        choices: the texts it takes; of a list, each of its texts.
        required: an empty text is refused.
        check: a function that is called with the value and the option's name, and raises UserError.
        named: words that may be written for values, which may be out of the limits: {"auto": AUTO}.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "required": required, "check": check}
    metadata["named"] = named or {}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def duration(default: str, help: str) -> Any:
    """A field that holds a duration: "10 epochs", "500 steps" or "10%"."""
    return field(default=default, metadata={"help": help, "duration": True})


def section(schema: type, help: str = "") -> Any:
    """A field that holds options of its own, which are written NAME.OPTION."""
    return field(default_factory=schema, metadata={"section": help})


def default_of(f: dataclasses.Field) -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def options(schema: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Every option of a dataclass, and of its sections, by its dotted name."""
    for f in dataclasses.fields(schema):
        if "help" in f.metadata:
            yield prefix + f.name, f
        elif dataclasses.is_dataclass(f.type):
            yield from options(f.type, f"{prefix}{f.name}.")
