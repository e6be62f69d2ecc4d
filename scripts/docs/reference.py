"""Pages that are made from the code: commands, options, methods, evaluations, recipes, files, the Python interface."""

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from scripts.docs.files import files
from scripts.docs.markdown import code, paragraph, plain, sentence, table

import dinolab
from dinolab.cli.evaluate import EVAL
from dinolab.cli.grammar import Family, Place, Verb
from dinolab.cli.help import help_text, own_groups, training_groups, word_of
from dinolab.cli.verbs import ROOT
from dinolab.config import as_word, flatten, to_dict
from dinolab.evals import EVALS
from dinolab.fields import options
from dinolab.grid.read import find_grid
from dinolab.grid.read import shipped as shipped_grids
from dinolab.methods import METHODS
from dinolab.options import Config
from dinolab.recipes import find_recipe, load_config, schema, shipped
from dinolab.takes import takes

Fields = Mapping[str, dataclasses.Field]
RETURNED = (
    "dinolab.models.encoder.Encoder",
    "dinolab.models.encoder.Features",
    "dinolab.evals.result.Result",
    "dinolab.evals.result.Measured",
)  # what the public functions give and take


def write_pages(into: Path) -> None:
    """Write all pages, as Markdown, into a folder."""
    into.mkdir(parents=True, exist_ok=True)
    for make in (commands, training, methods, evaluations, recipes, files, python):
        (into / f"{make.__name__}.md").write_text("\n".join(make()) + "\n")


def commands() -> Iterable[str]:
    yield from ("# Commands", "", "What `--help` prints for each command, generated from the code.", "")
    todo = [Place(member, [name]) for name, member in reversed(ROOT.members().items())]
    while todo:
        place = todo.pop()
        shown = help_text(ROOT, [*place.path, "--help"])
        yield from (f"{'#' * (len(place.path) + 1)} {place.name}", "", "```text", shown, "```", "")
        if isinstance(place.at, Family):
            todo += [Place(member, [*place.path, name]) for name, member in reversed(place.at.members().items())]


def training() -> Iterable[str]:
    shared = dict(options(Config))
    yield from ("# Options of training", "")
    yield from paragraph(
        "The options that every training has, generated from the code. They are written `NAME=VALUE` after `dinolab train`, or in a "
        "YAML file. Each method has options of its own beside them: [methods](methods.md)."
    )
    for group in training_groups(""):
        found = {name: f for name, f in group.fields.items() if name in shared}
        if found:
            yield from (f"## {group.name or 'method and seed'}", "")
            yield from paragraph(sentence(group.about))
            yield from option_table(found)


def methods() -> Iterable[str]:
    yield from ("# Methods", "")
    yield from paragraph(
        "`dinolab train method=NAME` chooses the method. Generated from the code: what each one is, the options that it has beside "
        "[those of every training](training.md), the troubles that the log warns of, and its recipes."
    )
    made_for: dict[str, list[str]] = {name: [] for name in METHODS}
    for name in shipped():
        made_for[load_config(name).method].append(name)
    for name, method in METHODS.items():
        yield from (f"## {name}", "")
        about = (sys.modules[method.__module__].__doc__ or "").strip().split("\n\n")[0]
        yield from paragraph(f"**{method.TITLE}.** {plain(about)}")
        yield from option_table(dict(options(method.Options)), name)
        if method.ALARMS:
            yield from ("What the log warns of:", "")
            yield from (f"- **{plain(alarm.name)}**: {plain(alarm.remedy)}" for alarm in method.ALARMS)
            yield ""
        if made_for[name]:
            yield from paragraph(f"Recipes: {', '.join(f'[{one}](recipes.md#{one})' for one in made_for[name])}.")


def evaluations() -> Iterable[str]:
    verbs = {name: verb for name, verb in EVAL.members().items() if name in EVALS}
    groups = {name: own_groups(verb) for name, verb in verbs.items() if isinstance(verb, Verb)}
    known = [{key: f for group in found for key, f in group.fields.items()} for found in groups.values()]
    common = [name for name in known[0] if all(one.get(name) == known[0][name] for one in known)]
    yield from ("# Evaluations", "")
    yield from paragraph(
        "`dinolab eval NAME RUN_OR_MODEL` measures features. Generated from the code: what each evaluation measures, on which data, "
        "and its options. All of them have [these](#options-of-every-evaluation) besides."
    )
    for name, evaluation in EVALS.items():
        yield from (f"## {name}", "")
        yield from paragraph(f"**{evaluation.title}.** {plain(evaluation.about)}")
        yield from paragraph(f"Data: {plain(sentence(evaluation.needs.__doc__ or ''))}")
        rows = [
            (f"`{figure.key}`", plain(figure.title), figure.unit, "higher" if figure.higher_is_better else "lower")
            for figure in evaluation.FIGURES
        ]
        yield from table(("figure", "title", "unit", "better"), rows)
        own = {key: f for group in groups[name] for key, f in group.fields.items() if key not in common}
        yield from option_table(own, name)
    yield from ("## Options of every evaluation", "")
    yield from option_table({name: known[0][name] for name in common})


def recipes() -> Iterable[str]:
    yield from ("# Recipes", "")
    yield from paragraph(
        "A recipe is a YAML file of options. `dinolab train NAME` takes these by their names. Generated from the files: their "
        "comments, and what they set otherwise than the method's defaults."
    )
    for name in shipped():
        cfg = load_config(name)
        usual, here = flatten(to_dict(schema(cfg.method)())), flatten(to_dict(cfg))
        yield from (f"## {name}", "", *header(find_recipe(name)))
        changed = [key for key in here if here[key] != usual[key] and key not in ("run.dir", "method")]
        rows = [(f"`{key}`", code(as_word(here[key])), code(as_word(usual[key]))) for key in changed]
        yield from paragraph(f"Method: [{cfg.method}](methods.md#{cfg.method})")
        yield from table(("option", "here", "default"), rows)
    yield from ("## Grids", "")
    yield from paragraph("`dinolab grid NAME` takes these by their names.")
    for name in shipped_grids():
        yield from (f"### {name}", "", "```yaml", find_grid(name).read_text().strip(), "```", "")


def python() -> Iterable[str]:
    yield from ("# Python", "")
    yield from paragraph("What `import dinolab` offers, generated from the docstrings. Anything else may change.")
    yield from (f"::: dinolab.{name}\n" for name in dinolab.__all__)
    yield from (f"::: {name}\n" for name in RETURNED)


def header(file: Path) -> Iterable[str]:
    """The comment at the top of a YAML file as a paragraph, and its labelled lines as a list."""
    lines: list[str] = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        text = line[1:].strip()
        labelled = text.split(":")[0] in ("Command", "Hardware", "Time", "Expected")
        if labelled or not lines:
            lines.append(f"**{text.partition(':')[0]}**: {text.partition(':')[2].strip()}" if labelled else text)
        else:
            lines[-1] += f" {text}"
    for i, line in enumerate(lines):
        yield f"- {as_code_after(line)}" if line.startswith("**") else f"{plain(line)}\n"
        if i + 1 == len(lines):
            yield ""


def as_code_after(line: str) -> str:
    """A labelled line; a command in it as code."""
    label, _, text = line.partition(": ")
    return f"{label}: {code(text) if 'Command' in label else plain(text)}"


def option_table(fields: Fields, place: str = "") -> Iterable[str]:
    """A table of options; each has an anchor, which begins with `place` where a name occurs several times on a page."""
    rows = []
    for name, f in fields.items():
        anchor = f"{place}.{name}" if place else name
        needed = "needed" if f.metadata.get("required") else code(word_of(f))
        rows.append((f'<a id="{anchor}"></a>`{name}`', needed, plain(f.metadata["help"]), plain(takes(f))))
    yield from table(("option", "default", "what it does", "takes"), rows)
