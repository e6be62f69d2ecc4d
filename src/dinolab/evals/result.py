"""The result of an evaluation: one class for every kind of evaluation, to and from JSON."""

from dataclasses import asdict, dataclass, field, replace
from types import NoneType
from typing import Any

from dinolab.errors import UserError
from dinolab.schemas import EACH, INFO, Schema, find_wrong, is_a, is_number

VERSION = 2  # of the JSON; files without a version are version 1
Json = dict[str, Any]
FIELDS: Schema = {
    "evaluation": str,
    "encoder": {"name": str},
    "data": {"test_images": int},
    "settings": {},
    "seed": int,
    "other": {},
    "per_class": {},
    "parts": {EACH: {EACH: float}},
    "leaks": list,
    "tries": {EACH: {"value": list, "mean": float, "std": float}},
    "seeds": ({}, NoneType),
}
SEEDS: Schema = {"seed": list, "mean": float, "std": float}


@dataclass(frozen=True)
class Measured:
    """The value of one figure, in the unit that the evaluation's FIGURES gives; shares are from 0 to 1."""

    value: float
    interval: tuple[float, float] | None = None  # 95 %, over test images


@dataclass
class Result:
    """Figures of one encoder by one evaluation, and what they depend on."""

    evaluation: str  # its name in EVALS
    encoder: Json  # name, dim, patch_size, and info: what the model card says of how it was made
    data: Json  # train, test: names of the sources; the chosen options of Columns; split; numbers of images; classes
    settings: Json  # size, precision, the evaluation's options, and what it chose by itself
    figures: dict[str, Measured]  # by the keys of the evaluation's FIGURES; the first is the one to compare encoders by
    seed: int = 0
    other: dict[str, float] = field(default_factory=dict)  # the main figure under other settings, for example "k = 10"
    per_class: dict[str, Json] = field(default_factory=dict)  # class: {"accuracy": share, "images": number}
    leaks: list[list[str]] = field(default_factory=list)  # [test image, training image] with the same bytes
    seeds: Json | None = None  # {"seed": [...], "value": [...], "mean", "std"} where several were run
    environment: Json | None = None  # machine and versions
    tries: dict[str, Json] = field(
        default_factory=dict
    )  # the main figure of repeated draws: {"value": [...], "mean", "std"}
    tests: list["Result"] = field(
        default_factory=list
    )  # of further test sets; what they share with this one is left out
    parts: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # figures of parts of the test data, such as classes or clips: {part: {key of a figure: value}}

    @property
    def main(self) -> Measured | None:
        """The figure to compare encoders by; None where the test images have no labels."""
        return next(iter(self.figures.values()), None)

    def __repr__(self) -> str:
        from dinolab.evals.results import in_one_line  # here: it builds on this file

        return in_one_line(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Json:
        """What a notebook shows: the table that the command line prints, without its rows for classes and other parts."""
        from dinolab.evals import EVALS
        from dinolab.evals.results import table

        if not self.main or self.evaluation not in EVALS:
            return {"text/plain": repr(self)}
        return table(replace(self, per_class={}, parts={}), EVALS[self.evaluation])._repr_mimebundle_(include, exclude)

    def to_json(self) -> Json:
        return {"version": VERSION, **asdict(self)}

    @staticmethod
    def from_json(content: Json) -> "Result":
        """Raises UserError for what is no result. Version 1 is read by `earlier.py`."""
        if content.get("version") != VERSION:
            raise UserError(f"a result of version {content.get('version')}, this dinolab reads {VERSION}")
        fields = {key: value for key, value in content.items() if key != "version"}
        try:
            figures = {
                key: Measured(float(found["value"]), tuple(found["interval"]) if found.get("interval") else None)
                for key, found in fields.pop("figures").items()
            }
            tests = [Result.from_json({"version": VERSION, **one}) for one in fields.pop("tests", [])]
            return checked(Result(**fields, figures=figures, tests=tests))
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            raise UserError(f"not a result of dinolab's ({type(error).__name__}: {error})") from error


def checked(result: Result) -> Result:
    """The result, after a look at the types of its fields. Raises TypeError for a wrong one."""
    info, seeds = result.encoder.get("info"), result.seeds
    found = find_wrong(vars(result), FIELDS)
    found = found or (find_wrong(info, INFO) if isinstance(info, dict) else "")
    found = found or (find_wrong(seeds, SEEDS) if seeds else "")
    found = found or next((f"seeds lacks {key}" for key in SEEDS if seeds and key not in seeds), "")
    if found:
        raise TypeError(found)
    by_class = [one[key] for one in result.per_class.values() for key in ("accuracy", "images")]
    ends = [end for measured in result.figures.values() for end in measured.interval or (0, 0)]
    if not all(map(is_number, [*by_class, *ends, *result.other.values()])):
        raise TypeError("a figure is not a number")
    if not all(is_a(str, one.data.get("test")) and is_a(int, one.data.get("test_images")) for one in result.tests):
        raise TypeError("a test set has no name or no number of images")
    if len(ends) != 2 * len(result.figures):
        raise TypeError("an interval does not have two ends")
    return result
