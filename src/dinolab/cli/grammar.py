"""The grammar of the command line: dinolab VERB [WHAT] [positionals] [key=value ...].

A verb is a description: its positional words and the dataclasses of its options. Parsing (here), help texts (help.py) and shell completion
(completion.py) all read that description.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dinolab.config import read_options
from dinolab.errors import UserError, nearest
from dinolab.fields import options

KEY = re.compile(r"([A-Za-z][\w-]*(?:\.[\w-]+)*)=")
FLAG = re.compile(r"--?(?:no-)?([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Positional:
    """A word without "key=": its name in usage lines, and its meaning."""

    metavar: str
    help: str
    required: bool = True
    several: bool = False  # takes all words that are left; only the last positional of a verb can
    choices: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        text = self.metavar + ("..." if self.several else "")
        return text if self.required else f"[{text}]"


@dataclass(frozen=True)
class Verb:
    """A command. Its function gets the positionals in their order, an instance of each options dataclass, and `words` with `training`."""

    help: str  # one line for lists of verbs
    run: Callable[..., int]
    about: str = ""  # a paragraph for the verb's own help
    positionals: tuple[Positional, ...] = ()
    options: tuple[type, ...] | Callable[[], tuple[type, ...]] = ()
    training: bool = False  # takes all options of a training besides; its function gets them as `key=value` words
    examples: tuple[str, ...] = ()

    @property
    def schemas(self) -> tuple[type, ...]:
        return self.options if isinstance(self.options, tuple) else self.options()

    @property
    def own_options(self) -> dict[str, Any]:
        """Dataclass fields by the name of the option, without those of a training."""
        return {name: f for schema in reversed(self.schemas) for name, f in options(schema)}


@dataclass(frozen=True)
class Family:
    """Verbs of one name that differ by the word after it, as `dinolab eval knn` and `dinolab eval linear`."""

    help: str
    members: Callable[[], Mapping[str, "Verb | Family"]]
    noun: str  # what a member is, for messages
    about: str = ""
    examples: tuple[str, ...] = ()
    otherwise: Verb | None = None  # what runs where no member is named, as `dinolab job DATA`


@dataclass
class Place:
    """The verb or family that the leading words of a command line name, and the words after them."""

    at: Verb | Family
    path: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return " ".join(["dinolab", *self.path])

    @property
    def see(self) -> str:
        return f"{self.name} --help"


def find(root: Family, words: Sequence[str]) -> Place:
    """Follow the words to a verb, or to a family where they end there. Raises UserError for an unknown one, with the nearest."""
    place = Place(root, rest=list(words))
    while isinstance(place.at, Family) and place.rest:
        members, word = place.at.members(), place.rest[0]
        if word not in members and place.at.otherwise:
            break
        if word not in members:
            near = nearest(word, members)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(members)}"
            raise UserError(f"{word!r} is no {place.at.noun}; {hint}")
        place = Place(members[word], [*place.path, word], place.rest[1:])
    if isinstance(place.at, Family) and place.at.otherwise:
        return Place(place.at.otherwise, place.path, place.rest)
    return place


def parse(place: Place) -> list[Any]:
    """The arguments for the verb's function from the words after the verb. Raises UserError for a word that it does not take."""
    assert isinstance(place.at, Verb)
    verb, own = place.at, place.at.own_options
    training = training_options(method_in(place.rest)) if verb.training else {}
    positionals: list[str] = []
    own_words: list[str] = []
    training_words: list[str] = []
    for word, following in zip(place.rest, [*place.rest[1:], ""]):
        key = KEY.match(word)
        if FLAG.fullmatch(word) and not os.path.exists(word):
            refuse_flag(word, following, own | training)
        if key is None or (key[1] not in own | training and os.path.exists(word)):
            positionals.append(word)
        elif key[1] in own or not (verb.training and nearest(key[1], [*training, *own]) not in own):
            own_words.append(word)
        else:  # load_config knows the method's options, and refuses what is unknown
            training_words.append(word)
    return [
        *fill(place, positionals, own_words),
        *read_own(verb, own_words, place.see),
        *([training_words] if verb.training else []),
    ]


def method_in(words: Sequence[str]) -> str:
    """The training method that is named on the command line, if one is."""
    return next((word.removeprefix("method=") for word in reversed(words) if word.startswith("method=")), "")


def training_options(method: str) -> dict[str, Any]:
    """The options of a training with this method; without a name, of all methods, since a recipe may name any."""
    from dinolab.methods import METHODS
    from dinolab.recipes import schema

    names = [method] if method else [*METHODS]
    return {key: f for name in reversed(names) for key, f in options(schema(name))}


def read_own(verb: Verb, words: Sequence[str], see: str) -> Iterator[Any]:
    """An instance of each of the verb's dataclasses. A name that several of them have is set in all."""
    known = {schema: dict(options(schema)) for schema in verb.schemas}
    unknown = [word for word in words if not any(word.partition("=")[0] in names for names in known.values())]
    if unknown:
        refuse_unknown(unknown[0].partition("=")[0], verb.own_options, see)
    for schema, names in known.items():
        yield read_options(schema, [word for word in words if word.partition("=")[0] in names], see=see)


def refuse_unknown(key: str, known: Mapping[str, Any], see: str) -> None:
    near = nearest(key, known)
    raise UserError(f"there is no option {key}; {f'did you mean {near}?' if near else f'see {see}'}")


def refuse_flag(word: str, following: str, known: Mapping[str, Any]) -> None:
    """Raises UserError for --key value or --key=value, with the same as key=value."""
    match = FLAG.fullmatch(word)
    assert match
    typed = match[1].replace("-", "_")
    key = typed if typed in known else nearest(typed, known) or typed
    value = match[2] or (following if not following.startswith("-") else "")
    if key in known and known[key].type is bool:
        value = "false" if "--no-" in word else match[2] or "true"
    raise UserError(f"{word}: options are written key=value: {key}={value or 'VALUE'}")


def fill(place: Place, words: Sequence[str], own_words: Sequence[str]) -> list[Any]:
    """A value for each positional: a text, None where an optional one is left out, a list where it takes several."""
    verb = place.at
    assert isinstance(verb, Verb)
    left, values = list(words), []
    for positional in verb.positionals:
        taken = left if positional.several else left[:1]
        left = left[len(taken) :]
        if positional.required and not taken:
            raise UserError(f"{positional.metavar} is missing: {usage(place)}")
        for word in taken if positional.choices else []:
            if word not in positional.choices:
                known = ", ".join(positional.choices)
                hint = hint_option(verb, word, own_words) or hint_choice(word, positional.choices)
                raise UserError(f"{positional.metavar} {word!r} is not one of {known}{hint}")
        values.append(list(taken) if positional.several else next(iter(taken), None))
    if left:
        hint = hint_option(verb, left[0], own_words) or f"; options are written key=value, see {place.see}"
        raise UserError(f"{left[0]!r} is one word too many for `{place.name}`{hint}")
    return values


def hint_choice(word: str, choices: Sequence[str]) -> str:
    near = nearest(word, choices)
    return f"; did you mean {near}?" if near else ""


def hint_option(verb: Verb, word: str, given: Sequence[str]) -> str:
    """For an existing path in the wrong place: the required option that is not set yet."""
    names = (name for name, f in verb.own_options.items() if f.metadata.get("required"))
    missing = [name for name in names if not any(one.startswith(f"{name}=") for one in given)]
    return f"; did you mean {missing[0]}={word}?" if missing and os.path.exists(word) else ""


def usage(place: Place) -> str:
    """The verb's words in order, for example "dinolab embed RUN_OR_MODEL data=... out=... [key=value ...]"."""
    if isinstance(place.at, Family):
        return f"{place.name} {place.at.noun.upper()} {'' if place.path else '[WHAT] '}[key=value ...]"
    verb = place.at
    own = verb.own_options
    required = [f"{name}=..." for name, f in own.items() if f.metadata.get("required")]
    more = ["[key=value ...]"] if verb.training or len(own) > len(required) else []
    return " ".join([place.name, *(positional.usage for positional in verb.positionals), *required, *more])


def walk(root: Family) -> Iterator[Place]:
    """Every verb of the tree, with the words that lead to it."""
    todo = [Place(root)]
    while todo:
        place = todo.pop(0)
        if isinstance(place.at, Verb):
            yield place
        else:
            todo += [Place(member, [*place.path, name]) for name, member in place.at.members().items()]
            todo += [Place(place.at.otherwise, place.path)] if place.at.otherwise else []
