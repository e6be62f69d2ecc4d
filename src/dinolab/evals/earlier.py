"""Reading result.json, also as earlier versions of dinolab wrote it."""

from pathlib import Path

from dinolab.errors import UserError
from dinolab.evals import EVALS
from dinolab.evals.result import Json, Measured, Result, checked
from dinolab.schemas import read_object


def read_result(file: Path) -> Result:
    """The result in a file. Raises UserError where it cannot be read or is no result."""
    content = read_object(file)
    try:
        return result_from(content)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def result_from(content: Json) -> Result:
    """The result in the content of a result.json of any version. Raises UserError where it is none."""
    if not isinstance(content, dict):
        raise UserError("not a result of dinolab's (no JSON object)")
    if "version" in content:
        return Result.from_json(content)
    try:
        return checked(from_version_1(content))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"not a result of dinolab's ({type(error).__name__}: {error})") from error


def from_version_1(content: Json) -> Result:
    """Version 1 named the evaluation by a sentence, and knew accuracies only."""
    settings = dict(content["protocol"])
    sentence = settings.pop("name")
    names = (name for name, evaluation in EVALS.items() if sentence in (evaluation.earlier, name))
    figures = {}
    if content.get("accuracy") is not None:
        interval = content.get("interval")
        figures["accuracy"] = Measured(float(content["accuracy"]), (interval[0], interval[1]) if interval else None)
    if content.get("leaks") and content.get("without_leaks") is not None:
        figures["without_leaks"] = Measured(float(content["without_leaks"]))
    seeds = content.get("seeds")
    return Result(
        evaluation=next(names, sentence),
        encoder=dict(content["encoder"]),
        data=dict(content.get("data") or {}),
        settings=settings,
        figures=figures,
        seed=content.get("seed", 0),
        other=dict(content.get("also") or {}),
        per_class=dict(content.get("per_class") or {}),
        leaks=list(content.get("leaks") or []),
        seeds={"value" if key == "accuracy" else key: value for key, value in seeds.items()} if seeds else None,
        environment=content.get("environment"),
    )
