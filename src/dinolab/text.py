"""Sentences' parts that many messages have."""

from collections.abc import Sequence

import torch


def some(things: Sequence[str], most: int, between: str = "; ") -> str:
    """The first few of them, and how many more there are."""
    rest = [f"and {len(things) - most:,} more"] if len(things) > most else []
    return between.join([*things[:most], *rest])


def reason(error: BaseException) -> str:
    """The error in a line for a table or a message."""
    text = str(error).strip()
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return "out of memory"
    return text.splitlines()[0] if text else type(error).__name__
