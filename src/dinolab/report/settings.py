"""Which options a run has set, and the commands that make it again."""

import shlex
from typing import Any, NamedTuple

from dinolab.config import flatten, to_dict
from dinolab.evals.evaluate import PROTOCOLS
from dinolab.options import Config, options
from dinolab.report.facts import NAMED, Json, Result, Run

WHERE = ("run.dir",)  # says where, not what
SEEN = ("tokens", "blocks")
TRAINED = ("epochs", "batch_size")
OPTIONS = {"knn": ("k", *SEEN), "logreg": SEEN, "linear-dino": TRAINED, "finetune": TRAINED}  # of an evaluation


class Setting(NamedTuple):
    """One option that a run has set to something else than the default."""

    name: str
    help: str
    default: str
    values: list[str]  # one a run; "" where the run's configuration is unknown
    same: bool  # in all runs


def settings(configs: list[Config | None]) -> list[Setting]:
    """Options that differ from the default in any of the runs."""
    defaults = flatten(to_dict(Config()))
    values = [flatten(to_dict(cfg)) if cfg else {} for cfg in configs]
    rows = []
    for name, f in options(Config):
        own = [v.get(name, defaults[name]) for v in values]
        if name not in WHERE and any(value != defaults[name] for value in own):
            texts = [as_word(v[name]) if v else "" for v in values]
            rows.append(Setting(name, f.metadata["help"], as_word(defaults[name]), texts, len(set(texts)) == 1))
    return rows


def as_word(value: Any) -> str:
    """As it is written after `key=`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(as_word, value))}]"
    return str(value)


def train_words(cfg: Config) -> list[str]:
    """The `key=value` words that make this configuration from the defaults."""
    defaults = flatten(to_dict(Config()))
    return [f"{key}={as_word(v)}" for key, v in flatten(to_dict(cfg)).items() if v != defaults[key]]


def commands(run: Run) -> list[str]:
    """Training, evaluations, benchmarks and this page, each as it can be run again; of a job, the one that does it all."""
    if run.job:
        return [job(run), shlex.join(["dinolab", "report", str(run.folder)])]
    lines = [shlex.join(["dinolab", "train", *train_words(run.config)])] if run.config else []
    alone = [r for r in run.results if not any(r.folder.is_relative_to(c.folder) for c in run.comparisons)]
    lines += [line for result in alone if (line := evaluation(result))]
    lines += [comparison(c.content) for c in run.comparisons]
    lines += [content["command"] for content in run.benchmarks if isinstance(content.get("command"), str)]
    return list(dict.fromkeys([*lines, shlex.join(["dinolab", "report", str(run.folder)])]))


def job(run: Run) -> str:
    """`dinolab recipe` with what it was told."""
    said = {"data": "PATH", **run.split, "out": run.folder, **run.job}
    words = [f"{word}={said[word]}" for word in ("data", "out", "scale", *NAMED) if said.get(word)]
    return shlex.join(["dinolab", "recipe", str(run.job.get("recipe", "har")), *words, *run.job.get("options", [])])


def evaluation(result: Result) -> str:
    """`dinolab eval` with what the result says was chosen; empty for a protocol that is not one of its."""
    protocol, data = result.content["protocol"], result.data
    if result.kind not in PROTOCOLS or not data.get("train"):
        return ""
    words = ["dinolab", "eval", result.kind, result.encoder, "--train", str(data["train"])]
    if data.get("split") == "given":
        words += ["--test", str(data.get("test"))]
    if size := protocol.get("size"):
        words += ["--size", "x".join(map(str, dict.fromkeys(size))) if isinstance(size, list) else str(size)]
    for name in OPTIONS.get(result.kind, ()):
        words += (
            ["-k" if name == "k" else f"--{name}".replace("_", "-"), str(protocol[name])] if name in protocol else []
        )
    words += ["--precision", str(protocol["precision"])] if "precision" in protocol else []
    if isinstance(over := result.content.get("seeds"), dict):
        words += ["--seeds", str(len(over.get("seed", [0])))]
    return shlex.join([*words, "--seed", str(result.content.get("seed", 0))])


def comparison(content: Json) -> str:
    """`dinolab eval all` of the same encoders."""
    encoders, data, chosen = content["encoders"], content.get("data") or {}, content["settings"]
    first, *others = (str(row.get("encoder", "?")) for row in encoders)
    words = ["dinolab", "eval", "all", first, *(["--against", *others] if others else [])]
    words += ["--protocols", *chosen.get("protocols", []), "--train", str(data.get("train", "DIR"))]
    words += ["--test", str(data["test"])] if data.get("test") else []
    for name in ("precision", "seed", "seeds"):
        words += [f"--{name}", str(chosen[name])] if name in chosen else []
    return shlex.join(words)


def install(environment: Json) -> tuple[str, str]:
    """dinolab's version, and what pip is told in its checkout for the same others; which build of torch, the environment says."""
    packages = environment.get("packages") or {}
    others = [f"{n}=={v.split('+')[0]}" for n, v in packages.items() if n != "dinolab" and v[:1].isdigit()]
    return packages.get("dinolab", ""), shlex.join(["pip", "install", ".", *others]) if others else ""
