"""The commands that make the run, its evaluations, its benchmarks and this page again."""

import json
import shlex
from typing import Any

from dinolab.config import as_word, changed_words
from dinolab.evals.comparison import Comparison
from dinolab.fields import options
from dinolab.options import Config
from dinolab.report.evaluated import Evaluated, setting
from dinolab.report.run import Json, Run
from dinolab.report.sections.section import Page

GIVEN = "given"  # the split of test images that the user named


def build(page: Page) -> dict[str, Any]:
    return {"parts": [{"commands": commands(run), "install": install(run.environment)} for run in page.runs]}


def commands(run: Run) -> list[str]:
    """Training, evaluations, benchmarks and this page; for a job, the one command that does all."""
    report = shlex.join(["dinolab", "report", str(run.path)])
    if run.job:
        return [job(run), report]
    lines = [training(run.config)] if run.config else []
    alone = [r for r in run.results if not any(r.folder.is_relative_to(c.folder) for c in run.comparisons)]
    lines += [line for evaluated in alone if (line := evaluation(evaluated))]
    lines += [comparison(found.comparison) for found in run.comparisons]
    lines += [content["command"] for content in run.benchmarks if isinstance(content.get("command"), str)]
    return list(dict.fromkeys([*lines, report]))


def training(cfg: Config) -> str:
    return shlex.join(["dinolab", "train", f"method={cfg.method}", *changed_words(cfg)])


def job(run: Run) -> str:
    if run.job.get("command"):
        return str(run.job["command"])
    values = {"data": run.split.get("data", "PATH"), "out": run.path, "scale": run.job.get("scale"), **run.job["files"]}
    words = [f"{word}={value}" for word, value in values.items() if value]
    return shlex.join(["dinolab", "job", str(run.job["job"]), *words, *run.job.get("options", [])])


def evaluation(evaluated: Evaluated) -> str:
    """The command of one result, from its settings; empty where this dinolab has no such evaluation."""
    result, data = evaluated.result, evaluated.result.data
    if not evaluated.evaluation:
        return ""
    words = ["dinolab", "eval", result.evaluation, evaluated.encoder]
    for name, _ in options(evaluated.evaluation.Options):
        if name == "size" and result.settings.get(name):
            words.append(f"size={setting(result.settings[name])}")
        elif result.settings.get(name) not in (None, "", []):
            words.append(f"{name}={as_word(result.settings[name])}")
        elif name == "test" and data.get("split") == GIVEN and data.get("test"):
            words.append(test_sets([str(data["test"]), *(test.data["test"] for test in result.tests)]))
        elif name != "test" and isinstance(data.get(name), str):
            words.append(f"{name}={data[name]}")
    words += [f"seeds={len(result.seeds['seed'])}"] if result.seeds else []
    return shlex.join([*words, f"seed={result.seed}"])


def test_sets(names: list[str]) -> str:
    """The option that names these test images; a name with a comma is quoted, since a comma stands between names."""
    plain = all("," not in name for name in names) and not names[0].startswith("[")
    return f"test={','.join(names) if plain else json.dumps(names, ensure_ascii=False)}"


def comparison(found: Comparison) -> str:
    """The command that compares the same encoders again."""
    first, *others = (row.encoder for row in found.encoders)
    words = ["dinolab", "eval", "all", first, *([f"against={as_word(others)}"] if others else [])]
    words += [test_sets([name]) if part == "test" else f"{part}={name}" for part, name in found.data.items() if name]
    return shlex.join([*words, *(f"{name}={as_word(value)}" for name, value in found.settings.items())])


def install(environment: Json) -> tuple[str, str]:
    """dinolab's version, and the pip command that installs the same other versions from its checkout.

    Which build of torch it was is among the facts of the environment.
    """
    packages = environment.get("packages") or {}
    others = [f"{n}=={v.split('+')[0]}" for n, v in packages.items() if n != "dinolab" and v[:1].isdigit()]
    return packages.get("dinolab", ""), shlex.join(["pip", "install", ".", *others]) if others else ""
