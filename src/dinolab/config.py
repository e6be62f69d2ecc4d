"""How YAML files, `key=value` words and Python keywords become checked options. The options themselves: options.py, and the file of
each method, evaluation and verb.

This is the only file that imports OmegaConf. Order of precedence, lowest first: the defaults, the YAML layers, the words.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dinolab.errors import UserError, nearest
from dinolab.options import default_of, options, range_in_words, takes

T = TypeVar("T")
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
    merged = OmegaConf.structured(schema)
    try:
        for where, layer in layers:
            refuse_unknown_keys(schema, layer, where, see)
            merged = OmegaConf.merge(merged, layer)
        for word in words:
            key, value = parse_word(schema, word, see)
            merged = OmegaConf.merge(merged, nested(key, value))
        made = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = (getattr(error, "full_key", None) or "").partition("[")[0]
        found = dict(options(schema)).get(key)
        needed = f"takes {takes(found)} ({str(error).splitlines()[0]})" if found else str(error).splitlines()[0]
        raise UserError(f"{key}: {needed}" if key else needed) from error
    if check:
        check_options(made)
    return made  # type: ignore[return-value]


def keyword_options(schema: type[T], values: Mapping[str, Any], see: str) -> T:
    """The options of a dataclass from Python keywords; None stands for the default.

    Paths become texts, pairs of whole numbers "HxW". Raises UserError as `read_options`.
    """
    given = {key: plain(value) for key, value in values.items() if value is not None}
    for key, f in options(schema):
        if key in given and get_origin(f.type) is list and not isinstance(given[key], list):
            given[key] = [given[key]]
    return read_options(schema, layers=[("option", given)], see=see)


def plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(n, int) for n in value):
        return f"{value[0]}x{value[1]}"
    return list(value) if isinstance(value, tuple) else value


def parse_word(schema: type, word: str, see: str) -> tuple[str, Any]:
    """key=value -> the key and its value, parsed as YAML where the option is no text."""
    key, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"{word!r}: options are written key=value, for example optim.lr=5e-4")
    known = dict(options(schema))
    if key not in known:
        refuse_unknown_keys(schema, nested(key, value), f"option {key}", see)
    kind = known[key].type
    if kind is str:  # YAML would make 7 of a folder 007
        return key, value
    if get_args(kind) and not value.startswith("["):
        if get_args(kind) == (str,):
            return key, value.split(",") if value else []
        value = f"[{value}]"
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"option {word}: not a value that can be read ({' '.join(str(error).split())})") from error


def nested(key: str, value: Any) -> dict[str, Any]:
    """ "a.b", 1 -> {"a": {"b": 1}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError where it cannot be read or is no mapping."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a mapping of options")
    return content  # type: ignore[return-value]


def write_yaml(content: Mapping[str, Any], file: Path) -> None:
    OmegaConf.save(OmegaConf.create(dict(content)), file)


def to_dict(values: Any) -> dict[str, Any]:
    return dataclasses.asdict(values)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}} -> {"optim.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def refuse_unknown_keys(schema: type, tree: Any, where: str, see: str) -> None:
    """Raises UserError for a key that is no option, with the nearest one that is."""
    if not isinstance(tree, dict):
        raise UserError(f"{where}: not a mapping of options")
    known = [name for name, _ in options(schema)]
    sections = {name.split(".")[0] for name in known if "." in name}
    for key, value in flatten(tree).items():
        if key in known or (key in sections and value is None):
            continue
        ends_alike = (name for name in known if name.split(".")[-1] == key.split(".")[-1])
        near = nearest(key, known) or next(ends_alike, "")
        hint = f"did you mean {near}?" if near else f"see {see}"
        raise UserError(f"{where}: there is no option {key}; {hint}")


def parse_duration(text: str, option: str) -> tuple[float, str]:
    """ "10 epochs" -> (10.0, "epochs"); units are steps, epochs and %."""
    match = re.fullmatch(r"\s*(\d+\.?\d*)\s*([a-z]+|%)\s*", text)
    if not match or match[2] not in UNITS:
        raise UserError(f'{option}={text!r} is no duration; write "10 epochs", "500 steps" or "10%" (of the run)')
    return float(match[1]), UNITS[match[2]]


def parse_size(text: str, option: str) -> tuple[int, int] | None:
    """Height and width in pixels from "224" or "224x336"; None for an empty text."""
    if not text:
        return None
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isdecimal() and int(number) for number in numbers):
        raise UserError(f"{option}={text}: not a size in pixels; write 224, or 224x336 with the height first")
    return int(numbers[0]), int(numbers[-1])


def parse_bytes(text: str, option: str) -> int:
    """Number of bytes from "500M", "1G" or plain digits; K, M and G are powers of 1000."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    number = int(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2]] if match else 0
    if not number:
        raise UserError(f"{option}={text}: not a number of bytes; write 500M or 1G")
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
            if choices and one not in choices:
                raise UserError(f"{name}={one}: one of {', '.join(choices)}")
            if not is_within(one, f.metadata.get("low"), f.metadata.get("high")):
                raise UserError(f"{name}={one}: out of range, {range_in_words(f)}")
        if check := f.metadata.get("check"):
            check(value, name)


def is_within(number: Any, low: float | None, high: float | None) -> bool:
    """Whether a number is within the limits; a number that is not finite is within none."""
    return (low is None or number >= low) and (high is None or number <= high)


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
