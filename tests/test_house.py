"""The house rules that no linter knows: small files and functions, and shared code that names no method, evaluation or source."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import dinolab
from dinolab.data.sources.kinds import KINDS
from dinolab.evals import EVALS
from dinolab.methods import METHODS

ROOT = Path(dinolab.__file__).parent
REPOSITORY = Path(__file__).parent.parent
FILES = sorted(ROOT.rglob("*.py"))
SCRIPTS = sorted(ROOT.rglob("*.js"))
LONGEST_FILE, LONGEST_FUNCTION = 300, 60  # lines

# Files that may name one: its own, and the places where a person has made a choice.
OWN_FILES = {
    "methods/__init__.py", "methods/dino.py", "methods/dinov2.py", "methods/distill.py",
    "methods/swav.py", "methods/deepcluster.py", "methods/supervised.py",
    "evals/__init__.py", "evals/knn.py", "evals/logreg.py", "evals/linear.py", "evals/linear_dino.py", "evals/finetune.py",
    "evals/davis.py",
    "evals/retrieval.py", "evals/copies.py", "evals/copies_sets.py",
    "evals/segmentation.py", "evals/depth.py",
    "evals/robustness.py", "evals/transfer.py", "evals/video.py",  # each also names the evaluations whose layers it uses
    "data/sources/kinds.py",
    "jobs/plan.py", "jobs/ways.py",  # jobs are concrete choices of methods and evaluations
}  # fmt: skip
# Words that are also something else: a figure's name in metrics.jsonl, a way to scale the learning rate, an ending of files.
OTHER_MEANINGS = {
    "knn": {"runs/run.py", "runs/accuracy.py", "training/log.py", "panels.py", "demo.py", "export/card.py", "report/sections/glance.py"},
    "linear": {"options.py", "training/phases.py"},
    "supervised": {"jobs/har_job.py"},  # a stage of the reference job: a network trained with labels by fine-tuning
    "retrieval": {"report/published.py"},  # a table of published figures
    "segmentation": {"data/sources/folder.py", "report/published.py"},  # folders of maps; a heading
    "depth": None,  # the number of blocks of a network
    "dino": {"evals/contract.py"},  # the paper, whose evaluations are a suite
    "dinov2": {"evals/contract.py", "weights/huggingface.py"},  # the paper; Hugging Face's name of an architecture
    "video": {
        "cli/show.py", "cli/job.py", "explore/session.py", "jobs/stages.py", "jobs/way_stages.py", "jobs/checks.py",
        "report/sections/learned.py",
    },
    # common words: checked as locations, not here
    "text": None, "csv": None, "folder": None, "dataset": None, "shards": None, "clips": None, "cifar": None, "curated": None,
}  # fmt: skip


def names_in(file: Path) -> Iterator[tuple[str, int]]:
    """The text constants of a file that are the name of a method, an evaluation or a kind of source, with their lines."""
    known = {*METHODS, *EVALS, *KINDS}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in known:
            yield node.value, node.lineno


def test_shared_code_names_no_method_evaluation_or_source() -> None:
    found = []
    for file in FILES:
        path = str(file.relative_to(ROOT))
        if path in OWN_FILES:
            continue
        for name, line in names_in(file):
            allowed = OTHER_MEANINGS.get(name, set())
            if allowed is not None and path not in allowed:
                found.append(f"{path}:{line}: {name}")
    assert not found


def test_files_are_short() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in [*FILES, *SCRIPTS]}
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    long = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    long[f"{file.relative_to(ROOT)}:{node.name}"] = length
    assert long == {}


def test_scripts_of_pages_make_no_html_of_text() -> None:
    words = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
    assert [(file.name, word) for file in SCRIPTS for word in words if word in file.read_text()] == []


def is_there(module: str, name: str) -> bool:
    """Whether a module has something of this name, or is a package with such a module."""
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        return bool(importlib.import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


def test_benchmarks_and_scripts_import_what_is_there() -> None:
    """Most of them are not run by the tests, and the type checker leaves them aside."""
    imports = {
        (node.module, alias.name, str(file.relative_to(REPOSITORY)))
        for folder in ("benchmarks", "scripts")
        for file in (REPOSITORY / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "dinolab"
        for alias in node.names
    }
    assert len(imports) > 100
    assert [one for one in sorted(imports) if not is_there(*one[:2])] == []
