"""Help texts: dinolab --help, dinolab VERB --help, and --help GROUP, OPTION or `all` after a verb.

Texts are as wide as the terminal, 100 columns at most. Torch is imported only where a description needs it.
"""

import dataclasses
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dinolab.cli.grammar import Family, Place, Verb, find, method_in, usage
from dinolab.config import as_word
from dinolab.errors import UserError, nearest
from dinolab.fields import default_of, options
from dinolab.takes import range_in_words, takes

WIDEST = 100
HUGE = 1 << 16  # limits from here on are no help to a reader
FLAGS = ("--help", "-h")


@dataclass
class Group:
    """Options that belong together; those of a section are named SECTION.OPTION."""

    name: str  # of the section; empty outside of sections
    about: str
    fields: dict[str, Any]  # dataclass fields by the whole name of the option


def wants_help(words: Sequence[str]) -> bool:
    return any(word in FLAGS for word in words)


def help_text(root: Family, words: Sequence[str]) -> str:
    """The help that a command line with --help in it stands for.

    Words before the flag lead to a verb; words after it lead on to a verb, and after a whole verb they name what is explained.

    Raises:
        UserError: there is no such verb, group or option.
    """
    flag = next(i for i, word in enumerate(words) if word in FLAGS)
    place, after = find_some(root, words[:flag]), [word for word in words[flag + 1 :] if word not in FLAGS]
    if isinstance(place.at, Family) and after:
        onward = find(place.at, after)
        place, after = Place(onward.at, [*place.path, *onward.path], onward.rest), onward.rest
    if isinstance(place.at, Family):
        return "\n".join(family_help(place))
    topics = [word for word in after if "=" not in word]
    lines = explain(place, topics, method_in(words)) if topics else verb_help(place, method_in(words))
    return "\n".join(lines)


def find_some(root: Family, words: Sequence[str]) -> Place:
    """Like `find`, for an unfinished line: flags between the words do not matter."""
    return find(root, [word for word in words if not word.startswith("-")])


def width() -> int:
    return max(40, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width(), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def columns(rows: Sequence[tuple[str, str]], widest: int = 26) -> list[str]:
    """Names and what they mean, in two columns; a name too long for its column has a line of its own."""
    left = max((len(name) for name, _ in rows if len(name) <= widest), default=0) + 4
    lines = []
    for name, text in rows:
        body = textwrap.wrap(text, width() - left, break_on_hyphens=False) or [""]
        if len(name) + 4 > left:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name}".ljust(left) + body.pop(0))
        lines += [" " * left + line for line in body]
    return [line.rstrip() for line in lines]


def family_help(place: Place) -> list[str]:
    family = place.at
    assert isinstance(family, Family)
    about = family.about or family.help[0].upper() + family.help[1:] + "."
    lines = [f"usage: {usage(place)}", "", *wrapped(about), ""]
    lines += columns([(name, member.help) for name, member in family.members().items()])
    tail = f"`{place.name} {family.noun.upper()} --help` explains one."
    return [*lines, *example_lines(family.examples), "", tail]


def example_lines(examples: Sequence[str]) -> list[str]:
    return ["", "examples:", *(f"  dinolab {example}" for example in examples)] if examples else []


def verb_help(place: Place, method: str) -> list[str]:
    """Usage, positionals, the verb's own options in full, and an overview of a training's options where the verb takes them."""
    verb = place.at
    assert isinstance(verb, Verb)
    about = verb.about or verb.help[0].upper() + verb.help[1:] + "."
    lines = [*textwrap.wrap(f"usage: {usage(place)}", width(), subsequent_indent=" " * 9), "", *wrapped(about)]
    if verb.positionals:
        lines += ["", *columns([(p.metavar, p.help) for p in verb.positionals])]
    for group in own_groups(verb):
        lines += ["", f"{group.about or 'options'}:", *option_rows(group)]
    lines += example_lines(verb.examples)
    if verb.training:
        lines += ["", *training_overview(place, method)]
    return lines


def own_groups(verb: Verb) -> list[Group]:
    """The verb's options, grouped by the class that declares them: what is special to the verb first, then what it shares."""
    groups: dict[str, Group] = {}
    seen: set[str] = set()
    for schema in verb.schemas:
        known = dict(options(schema))
        for cls in schema.__mro__:
            names = [name for name in known if name.split(".")[0] in vars(cls).get("__annotations__", {})]
            found = {name: known[name] for name in names if name not in seen}
            seen |= set(found)
            if found:
                about = summary(cls).rstrip(".:")
                groups.setdefault(about, Group("", about, {})).fields.update(found)
    return list(groups.values())


def training_groups(method: str) -> list[Group]:
    """The sections of a training's options; first the options outside of sections."""
    from dinolab.recipes import schema as schema_of

    schema = schema_of(method)
    groups = [Group("", "", {name: f for name, f in options(schema) if "." not in name})]
    for f in dataclasses.fields(schema):
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            about = f.metadata.get("section") or summary(f.type)
            groups.append(Group(f.name, about, dict(options(f.type, f"{f.name}."))))
    return groups


def summary(cls: type) -> str:
    """The first sentence of a docstring; empty for one that dataclass() has made."""
    text = (vars(cls).get("__doc__") or "").strip().split("\n\n")[0]
    return "" if text.startswith(f"{cls.__name__}(") else " ".join(text.split()).split(". ")[0]


def training_overview(place: Place, method: str) -> list[str]:
    """A line for each group of a training's options; for other verbs than train only the groups' names."""
    groups = training_groups(method)
    if place.path != ["train"]:
        names = ", ".join(group.name for group in groups[1:])
        return wrapped(f"It also takes every option of a training ({names}): see `dinolab train --help`.")
    used = word_of(groups[0].fields["method"])
    lines = [f"options of the training with method={used}:", *option_rows(groups[0])]
    left = max(len(group.name) for group in groups) + 4
    for group in groups[1:]:
        about = textwrap.shorten(group.about.rstrip("."), 52, placeholder=" ...") + ": " if group.about else ""
        members = fitted([name.partition(".")[2] for name in group.fields], width() - left - len(about))
        lines.append(f"  {group.name}".ljust(left) + about + members)
    tail = (
        f"An option of a group is written GROUP.OPTION=VALUE. `{place.see} {groups[1].name}` explains a group, "
        f"`--help {next(iter(groups[1].fields))}` one option, `--help all` every option; "
        "`dinolab train method=NAME --help` shows another method's."
    )
    return [*lines, "", *wrapped(tail)]


def fitted(names: Sequence[str], room: int) -> str:
    """As many names as fit on a line."""
    text = ", ".join(names)
    while len(text) > room and names:
        names = names[:-1]
        text = ", ".join([*names, "..."])
    return text


def explain(place: Place, topics: Sequence[str], method: str) -> list[str]:
    """One group of options, one option in full, or `all`."""
    verb = place.at
    assert isinstance(verb, Verb)
    groups = [*own_groups(verb), *(training_groups(method) if verb.training else [])]
    sections = {group.name: group for group in groups if group.name}
    single = {name: f for group in groups for name, f in group.fields.items()}
    lines: list[str] = []
    for topic in topics:
        if topic == "all":
            chosen = [line for group in groups for line in group_lines(group)]
        elif topic.rstrip(".") in sections:
            chosen = group_lines(sections[topic.rstrip(".")])
        elif topic in single:
            chosen = option_in_full(topic, single[topic])
        else:
            near = nearest(topic, [*sections, *single])
            hint = f"did you mean {near}?" if near else f"see {place.see}"
            raise UserError(f"--help {topic}: there is no such option or group; {hint}")
        lines += ["", *chosen] if lines and chosen[0] else chosen
    return lines


def group_lines(group: Group) -> list[str]:
    heading = ": ".join(text for text in (group.name, group.about) if text) or "options"
    return [*wrapped(f"{heading}:" if not heading.endswith(":") else heading), *option_rows(group), ""]


def option_rows(group: Group) -> list[str]:
    return columns([(f"{name}={word_of(f)}", describe(f)) for name, f in group.fields.items()])


def word_of(f: dataclasses.Field) -> str:
    return as_word(default_of(f))


def describe(f: dataclasses.Field) -> str:
    """The option's line of documentation, with its choices, or with its smallest and largest number where that is no huge one."""
    text = ("needed: " if f.metadata.get("required") else "") + f.metadata["help"]
    low, high = f.metadata.get("low"), f.metadata.get("high")
    is_limited = low is not None and high is not None and high < HUGE
    limits = ", ".join(filter(None, f.metadata.get("choices") or ())) or (range_in_words(f) if is_limited else "")
    if not limits:
        return text
    return f"{text[:-1]}; {limits})" if text.endswith(")") else f"{text} ({limits})"


def option_in_full(name: str, f: dataclasses.Field) -> list[str]:
    default = word_of(f)
    rows = [("default", default or "empty"), ("takes", takes(f))]
    return [f"{name}=VALUE", *wrapped(f.metadata["help"], "  "), "", *columns(rows)]
