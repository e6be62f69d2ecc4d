"""Markdown of the generated pages: lines of tables and paragraphs."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    if rows:
        yield from (f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
        yield ""


def paragraph(text: str) -> Iterable[str]:
    return (text, "") if text else ()


def sentence(text: str) -> str:
    """The first sentence, with a capital and a full stop."""
    first = " ".join(text.strip().split("\n\n")[0].split()).rstrip(".:")
    return f"{first[0].upper()}{first[1:]}." if first else ""


def code(text: str) -> str:
    return f"`{text}`".replace("|", r"\|") if text else "empty"


def plain(text: str) -> str:
    """A text on one line, in which nothing is read as Markdown but code between backticks."""
    parts = " ".join(text.split()).split("`")
    for i in range(0, len(parts), 2):
        for sign in r"\*_<[|":
            parts[i] = parts[i].replace(sign, f"\\{sign}" if sign != "<" else "&lt;")
    return "`".join(parts)
