"""YAML as plain data: texts, lists and mappings. No anchors (few bytes could stand for gigabytes), no tags that make objects,
no references to environment variables or other options: "${NAME}" is a text like any other.

A number is the text that stands in the file, too: only its option knows whether 007 is the number 7 or the name of a folder.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dinolab.errors import UserError

LARGEST = 1 << 20  # bytes of a file
LONGEST = 300  # characters of a message


class PlainLoader(yaml.SafeLoader):
    """Refuses aliases and repeated keys; whatever is no list, no mapping and not null is a text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "anchors and aliases are not used", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        made = super().construct_mapping(node, deep)
        if len(made) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key stands there twice", node.start_mark)
        return made


PlainLoader.yaml_implicit_resolvers = {
    sign: [(tag, pattern) for tag, pattern in found if tag == "tag:yaml.org,2002:null"]
    for sign, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str, where: str) -> Any:
    """The value in a YAML text. Raises UserError, which begins with `where`, for a text that is not valid."""
    try:
        return yaml.load(text, PlainLoader)  # a subclass of the safe loader
    except RecursionError as error:
        raise UserError(f"{where}: not valid YAML (too many brackets within each other)") from error
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{where}: not valid YAML ({in_words(error)})") from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise UserError(f"{where}: not valid YAML ({' '.join(str(error).split())[:LONGEST]})") from error


def in_words(error: yaml.MarkedYAMLError) -> str:
    """What is wrong, and where: what stands open there may begin far above."""
    place, begin = error.problem_mark, error.context_mark
    where = f", line {place.line + 1}, column {place.column + 1}" if place else ""
    opened = f", in what begins in line {begin.line + 1}" if begin and place and begin.line != place.line else ""
    return f"{' '.join(str(error.problem).split())[:LONGEST]}{where}{opened}"


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty one. Raises UserError where it cannot be read or is no mapping."""
    try:
        if file.exists() and (not file.is_file() or os.path.getsize(file) > LARGEST):
            raise UserError(f"{file}: cannot be read (not a file of at most {LARGEST:,} bytes)")
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    content = parse_yaml(text, str(file))
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{file}: not a mapping of options")
    return content or {}


def write_yaml(content: Mapping[str, Any], file: Path) -> None:
    """Write a mapping of plain values."""
    written = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    file.write_bytes(written.encode("utf-8", errors="surrogateescape"))
