"""The code in the project's pages: commands of the shell and blocks of Python."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
SHELL = ("", "sh", "bash", "console", "text")  # what stands behind the backticks of a block for the shell
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
KEYS = re.compile(r"\[key=value( \.\.\.)?\]|(?<=\s)\.\.\.(?=\s|$)")  # stand for further words
OPTIONAL = re.compile(r"(?<=\s)\[([^\]]*)\](?=\s|$)")
ALTERNATIVES = re.compile(r"(?<=[=\s])([\w.-]+(?:\|[\w.-]+)+)")
PLACEHOLDERS = {
    "...": "X",
    "N": "1",
    "X,Y": "0.5,0.5",
    "SIZE": "224",
    "NAME": "knn",
    "EVALUATION": "knn",
    "SHELL": "bash",
}


@dataclass
class Block:
    """A block of Python, or a line for the shell."""

    page: Path
    line: int  # where its block begins, from 1
    text: str
    runs: bool = True  # not marked as one that is not run

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text.strip().splitlines()[0]}"


def blocks(page: Path) -> Iterator[tuple[str, Block]]:
    """The blocks of code of a page with their languages; "inline" for code within a sentence."""
    marked = False
    for token in MarkdownIt().parse(page.read_text()):
        line = (token.map or [0])[0] + 1
        if token.type in ("fence", "code_block"):
            yield token.info.strip(), Block(page, line, token.content, not marked)
        for child in token.children or []:
            if child.type == "code_inline":
                yield "inline", Block(page, line, child.content)
        marked = token.type == "html_block" and bool(NOT_RUN.search(token.content))


def python_blocks(page: Path) -> list[Block]:
    return [block for language, block in blocks(page) if language == "python"]


def shell_lines(page: Path) -> Iterator[Block]:
    """Every line of a page that is typed into a shell; output is left out."""
    for language, block in blocks(page):
        if language in SHELL:
            lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
            typed = [line[2:] for line in lines if line.startswith("$ ")]
            yield from (Block(page, block.line, line) for line in typed or lines)


def dinolab_words(line: str) -> Iterator[list[str]]:
    """The words after `dinolab` in a line, with all that is optional in it; several where words are alternatives."""
    line = re.sub(r"^sbatch .*scripts/slurm.sh(?= curate )", "dinolab", line)
    line = re.sub(r"^sbatch .*scripts/slurm.sh", f"dinolab {'grid' if '--array' in line else 'train'}", line)
    if not re.match(r"(\w+=\S* )*(dinolab|(torchrun|python) .*-m dinolab)\s", line):
        return
    for variant in variants(OPTIONAL.sub(r"\1", KEYS.sub("", line.partition("dinolab")[2]))):
        words = []
        for word in split(variant):
            key, equals, value = word.rpartition("=")
            words.append(key + equals + PLACEHOLDERS.get(value, value.removesuffix(",...").removesuffix("...")))
        yield words


def variants(line: str) -> Iterator[str]:
    """The line with each of the words that stand with | between them."""
    if found := ALTERNATIVES.search(line):
        for word in found[1].split("|"):
            yield from variants(line[: found.start()] + word + line[found.end() :])
    else:
        yield line


def broken_links(page: Path) -> Iterator[str]:
    """The links of a page to files that are not there, or to headings that a Markdown file does not have."""
    for token in MarkdownIt().parse(page.read_text()):
        for child in token.children or []:
            address = str(child.attrGet("href") or child.attrGet("src") or "")
            name, _, anchor = address.partition("#")
            file = page.parent / name if name else page
            if ":" in address or not address:
                continue
            if not file.is_file() or (anchor and anchor not in headings(file)):
                yield address


@cache
def headings(page: Path) -> set[str]:
    """The anchors that code hosts give to the headings of a page."""
    tokens = MarkdownIt().parse(page.read_text())
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def split(line: str) -> list[str]:
    """The words of the first command in a line, without comments."""
    reader = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    reader.whitespace_split = True
    words = list(reader)
    return words[: next((i for i, word in enumerate(words) if word and set(word) <= set("|&;<>")), None)]
