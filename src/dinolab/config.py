"""How YAML files, `key=value` words and Python keywords become checked options. The options themselves: options.py, and the file of
each method, evaluation and verb.

Order of precedence, lowest first: the defaults, the YAML layers, the words. A value is never more than it looks like: "${NAME}" and
"???" are texts.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from dinolab.errors import UserError, nearest
from dinolab.fields import default_of, options
from dinolab.plain_yaml import parse_yaml
from dinolab.takes import range_in_words, takes

T = TypeVar("T")
LARGEST = (1 << 63) - 1  # whole number
LONGEST = 1e12  # duration, in its unit
SHOWN = 80  # characters of a value in a message
UNITS = {"step": "steps", "steps": "steps", "epoch": "epochs", "epochs": "epochs", "ep": "epochs", "%": "%"}


def read_options(
    schema: type[T],
    words: Sequence[str] = (),
    layers: Iterable[tuple[str, Mapping[str, Any]]] = (),
    see: str = "dinolab --help",
    check: bool = True,
) -> T:
    """The options of a dataclass: its defaults, then layers, then words.

    Args:
        schema: a dataclass of `option`, `duration` and `section` fields.
        words: `key=value`, with dotted keys; lists as key=[a,b] or key=a,b.
        layers: (name for messages, nested mapping), as `read_yaml` gives them.
        see: the command that lists the options, for messages.
        check: also check single values, see `check_options`.

    Raises:
        UserError: an unknown key (with the nearest known one), a wrong type, or a value out of range.
    """
    known = dict(options(schema))
    values: dict[str, Any] = {}
    for where, layer in layers:
        refuse_unknown_keys(schema, layer, where, see)
        for key, value in flatten(layer).items():
            if key in known:
                values[key] = convert(value, known[key], f"{where}: {key}" if where else key)
    for word in words:
        key, value = parse_word(schema, word, see)
        values[key] = convert(value, known[key], key)
    made = build(schema, values)
    if check:
        check_options(made)
    return made


def build(schema: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """An instance of the dataclass with these values by dotted name, and defaults for the others."""
    own: dict[str, Any] = {}
    for f in dataclasses.fields(schema):  # type: ignore[arg-type]
        name = prefix + f.name
        if name in values:
            own[f.name] = values[name]
        elif dataclasses.is_dataclass(f.type):
            own[f.name] = build(f.type, values, f"{name}.")  # type: ignore[arg-type]
    return schema(**own)


def convert(value: Any, f: dataclasses.Field, where: str) -> Any:
    """The value as the type of the option. Raises UserError, which begins with `where`, if it cannot be that."""
    kind, named = f.type, f.metadata.get("named", {})
    if isinstance(value, str) and value in named:
        return named[value]
    try:
        if inner := get_args(kind):
            if not isinstance(value, list | tuple):
                raise TypeError
            return [CONVERT[inner[0]](one) for one in value]
        return CONVERT[kind](value)
    except (TypeError, ValueError, OverflowError, LookupError) as error:
        raise UserError(f"{where}: takes {takes(f)} ({shorten(value)} is not)") from error


def shorten(value: Any) -> str:
    """A value in a message: its first characters."""
    if isinstance(value, int) and abs(value) > LARGEST:
        return "so large a number"
    written = repr(value)
    return written if len(written) <= SHOWN else f"{written[:SHOWN]}..."


def to_bool(value: Any) -> bool:
    return BOOLS[value.lower() if isinstance(value, str) else value]


def to_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    number = int(value)
    if abs(number) > LARGEST:
        raise OverflowError
    return number


def to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    return float(value)


def to_text(value: Any) -> str:
    if not isinstance(value, str | bool | int | float):
        raise TypeError
    text = str(value)
    return os.path.expanduser(text) if text.startswith("~/") else text  # shells leave it alone behind `key=`


BOOLS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    1: True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
    0: False,
}
CONVERT: dict[Any, Any] = {bool: to_bool, int: to_int, float: to_float, str: to_text}


def keyword_options(schema: type[T], values: Mapping[str, Any], see: str) -> T:
    """The options of a dataclass from Python keywords; None stands for the default.

    Paths become texts, pairs of whole numbers "HxW". Raises UserError as `read_options`.
    """
    given = {key: plain(value) for key, value in values.items() if value is not None}
    for key, f in options(schema):
        if key in given and get_origin(f.type) is list and not isinstance(given[key], list):
            given[key] = [given[key]] if given[key] != "" else []
    return read_options(schema, layers=[("", given)], see=see)


def plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(n, int) for n in value):
        return f"{value[0]}x{value[1]}"
    return [plain(one) for one in value] if isinstance(value, tuple | list) else value


def parse_word(schema: type, word: str, see: str) -> tuple[str, Any]:
    """key=value -> the key and its value, parsed as YAML where the option is no text."""
    key, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"{shorten(word)}: options are written key=value, for example optim.lr=5e-4")
    known = dict(options(schema))
    if key not in known:
        refuse_unknown_keys(schema, nested(key, value), "", see)
    kind = known[key].type
    if kind is str:  # YAML would make 7 of a folder 007
        return key, value
    if get_args(kind) and not value.startswith("["):
        if get_args(kind) == (str,):
            return key, value.split(",") if value else []
        value = f"[{value}]"
    return key, parse_yaml(value, f"option {word[:SHOWN]}")


def nested(key: str, value: Any) -> dict[str, Any]:
    """ "a.b", 1 -> {"a": {"b": 1}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def to_dict(values: Any) -> dict[str, Any]:
    return dataclasses.asdict(values)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}} -> {"optim.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def refuse_unknown_keys(schema: type, tree: Any, where: str, see: str) -> None:
    """Raises UserError for a key that is no option, with the nearest one that is. `where` is the file, if it stands in one."""
    if not isinstance(tree, dict):
        raise UserError(f"{where}: not a mapping of options")
    begin = f"{where}: " if where else ""
    known = [name for name, _ in options(schema)]
    sections = {name.split(".")[0] for name in known if "." in name}
    for key, value in flatten(tree).items():
        if key in known or (key in sections and value in (None, {})):
            continue
        ends_alike = (name for name in known if name.split(".")[-1] == key.split(".")[-1])
        near = nearest(key, known) or next(ends_alike, "")
        hint = f"did you mean {near}?" if near else f"see {see}"
        raise UserError(f"{begin}there is no option {key}; {hint}")


def parse_duration(text: str, option: str) -> tuple[float, str]:
    """ "10 epochs" -> (10.0, "epochs"); units are steps, epochs and %."""
    match = re.fullmatch(r"\s*(\d+\.?\d*)\s*([a-z]+|%)\s*", text[:SHOWN])
    if not match or match[2] not in UNITS or float(match[1]) > LONGEST:
        raise UserError(
            f'{option}={shorten(text)} is no duration; write "10 epochs", "500 steps" or "10%" (of the run)'
        )
    return float(match[1]), UNITS[match[2]]


def parse_size(text: str, option: str) -> tuple[int, int] | None:
    """Height and width in pixels from "224" or "224x336"; None for an empty text."""
    if not text:
        return None
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(re.fullmatch(r"0*[1-9]\d{0,8}", number, re.ASCII) for number in numbers):
        raise UserError(f"{option}={text[:SHOWN]}: not a size in pixels; write 224, or 224x336 with the height first")
    return int(numbers[0]), int(numbers[-1])


def parse_bytes(text: str, option: str) -> int:
    """Number of bytes from "500M", "1G" or plain digits; K, M and G are powers of 1000."""
    match = re.fullmatch(r"(\d{1,18})([KMG]?)", text.upper())
    number = int(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2]] if match else 0
    if not number:
        raise UserError(f"{option}={text[:SHOWN]}: not a number of bytes; write 500M or 1G")
    return number


def check_options(values: Any) -> None:
    """Raises UserError for a value of a single option that is out of its range or not among its choices."""
    found = flatten(to_dict(values))
    for name, f in options(type(values)):
        value, default = found[name], default_of(f)
        choices = f.metadata.get("choices")
        several = isinstance(value, list)
        if several and default and not isinstance(default[0], str) and len(value) != len(default):
            raise UserError(f"{name}={value}: takes {len(default)} numbers, like {default}")
        if f.metadata.get("required") and not value:
            raise UserError(f"{name} is not set: {f.metadata['help']}")
        if f.metadata.get("duration"):
            parse_duration(value, name)
        for one in value if several else [value]:
            if one in f.metadata.get("named", {}).values():
                continue
            if choices and one not in choices:
                raise UserError(f"{name}={str(one)[:SHOWN]}: one of {', '.join(choices)}")
            if not is_within(one, f.metadata.get("low"), f.metadata.get("high")):
                raise UserError(f"{name}={one}: out of range, {range_in_words(f)}")
        if check := f.metadata.get("check"):
            check(value, name)


def is_within(number: Any, low: float | None, high: float | None) -> bool:
    """Whether a number is within the limits; one that is not a number is within none."""
    return number == number and (low is None or number >= low) and (high is None or number <= high)


def as_word(value: Any) -> str:
    """A value as it is written after `key=`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(as_word, value))}]"
    return str(value)


def changed_words(values: Any) -> list[str]:
    """The `key=value` words that make these options from the defaults of their dataclass."""
    usual = flatten(to_dict(type(values)()))
    return [f"{key}={as_word(value)}" for key, value in flatten(to_dict(values)).items() if value != usual[key]]
