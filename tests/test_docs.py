"""The code in the pages: commands are parsed by dinolab's own grammar, Python is run."""

import re
import shutil
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import dinolab
from dinolab import cli
from dinolab.cli.grammar import Family, find, parse, training_options
from dinolab.cli.help import help_text, wants_help
from dinolab.cli.verbs import ROOT as VERBS
from dinolab.errors import UserError
from dinolab.grid.read import read_grid
from dinolab.grid.task import row_config
from dinolab.recipes import load_config
from dinolab.runs import train as training
from tests.pages import PAGES, ROOT, blocks, broken_links, dinolab_words, python_blocks, shell_lines
from tests.pictures import TINY, fit_words, make_folder

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
RUNS = ("runs/mine", "runs/trial", "runs/short", "runs/demo/run")  # names of trained networks in the pages
BY_PAGE = {"argvalues": PAGES, "ids": [str(page.relative_to(ROOT)) for page in PAGES]}


@pytest.mark.parametrize("page", **BY_PAGE)
def test_commands_are_commands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a word means must not depend on files that lie about
    wrong = []
    for line in shell_lines(page):
        for words in dinolab_words(line.text):
            wrong += [f"{line}\n    {error}" for error in mistakes(words)]
        wrong += [f"{line}\n    {error}" for error in missing(line.text)]
    for language, block in blocks(page):
        for words in dinolab_words(f"{block.text} ") if language == "inline" else ():
            wrong += [f"{block}\n    {error}" for error in mistakes(words, whole=False)]
    assert not wrong, "\n".join(wrong)


def test_commands_are_in_blocks() -> None:
    """A command at the beginning of a line that is not indented is shown as running text."""
    wrong = [
        f"{page.relative_to(ROOT)}: {line}"
        for page in PAGES
        for line in page.read_text().splitlines()
        if line.startswith("$ ")
    ]
    assert not wrong, "\n".join(wrong)


def mistakes(words: list[str], whole: bool = True) -> list[str]:
    """What dinolab says against a command; of one that need not be whole, only verbs and names of options are looked at."""
    try:
        if words == ["--version"]:
            return []
        if wants_help(words) or not words:
            help_text(VERBS, words or ["--help"])
        elif whole:
            check(words)
        elif words[0].islower():
            place = find(VERBS, words)
            known = {} if isinstance(place.at, Family) else place.at.own_options
            if not isinstance(place.at, Family) and place.at.training:
                known = known | training_options("")
            keys = {word.partition("=")[0] for word in place.rest if re.match(r"[a-z_.]+=", word)}
            return [f"there is no option {key}" for key in sorted(keys - known.keys())]
    except UserError as error:
        return [str(error)]
    return []


def check(words: list[str]) -> None:
    """Raises UserError for a command that is none, also for options of a training that cannot be."""
    place = find(VERBS, words)
    if isinstance(place.at, Family):
        raise UserError(f"a {place.at.noun} is missing")
    given = parse(place)
    named = dict(zip([positional.metavar for positional in place.at.positionals], given))
    shipped = {
        name: word for name, word in named.items() if re.fullmatch("[a-z0-9_]+", word if isinstance(word, str) else "")
    }
    if "GRID" in shipped:
        grid = read_grid(shipped["GRID"])
        for row in grid.rows:
            row_config(grid, row, given[-1], given[1].base)
    elif place.at.training:
        load_config(shipped.get("CONFIG"), given[-1])


def missing(line: str) -> list[str]:
    """Targets of make, extras and scripts that a line names and that are not there."""
    targets = re.match(r"make ([a-z-]+)", line)
    extras = re.search(r"pip install '(?:dinolab|\.)\[(.*)\]'", line)
    script = re.match(r"python ((?:benchmarks|scripts)/\S+)", line)
    found = [f"no extra {name}" for name in (extras[1].split(",") if extras else []) if name not in EXTRAS]
    if targets and not re.search(rf"^{targets[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE):
        found.append(f"no target {targets[1]}")
    return found + ([f"no file {script[1]}"] if script and not (ROOT / script[1]).is_file() else [])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dinolab eval knn RUN train=DIR kk=3", "there is no option kk"),
        ("dinolab eval knn RUN train=DIR [k=N] [tokens=cls|all]", "tokens=all"),
        ("dinolab train small_1k data.path=x optim.lrr=3 # a comment", "optim.lrr"),
        ("torchrun --nproc-per-node 2 -m dinolab trian small_1k", "did you mean train"),
        ("sbatch --nodes 4 scripts/slurm.sh small_1l data.path=x", "small_1k"),
        ("make dmeo", "no target dmeo"),
        ("pip install 'dinolab[vidoe]'", "no extra vidoe"),
        ("dinolab train small_1k data.path=x > log.txt", ""),
    ],
)
def test_mistakes_in_pages_are_found(line: str, expected: str) -> None:
    found = [error for words in dinolab_words(line) for error in mistakes(words)] + missing(line)
    assert (expected in found[0]) if expected else not found


@pytest.mark.parametrize("page", **BY_PAGE)
def test_links_lead_somewhere(page: Path) -> None:
    assert not [*broken_links(page)]


def test_pictures_have_their_sources() -> None:
    listed = (ROOT / "docs/pictures/README.md").read_text()
    assert [file.name for file in (ROOT / "docs/pictures").glob("*.jpg") if f"| `{file.name}` |" not in listed] == []


@pytest.mark.parametrize("page", **BY_PAGE)
def test_files_in_pages_can_be_read(page: Path) -> None:
    for language, block in blocks(page):
        if language in ("yaml", "json"):
            assert isinstance(yaml.safe_load(block.text), dict), block  # JSON is YAML, too


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few seconds with a linear layer, and arrays of its attention."""
    folder = tmp_path_factory.mktemp("trained")
    photos = make_folder(folder / "photos")
    run = folder / "run"
    dinolab.train(None, *fit_words([*TINY, f"data.path={photos}", f"run.dir={run}"]))
    dinolab.evaluate("linear", str(run), str(photos), out=run / "eval" / "linear", device="cpu")
    assert cli.main(["show", "attention", str(run), str(photos / "class0"), "arrays=true", "device=cpu"]) == 0
    return run


def prepare(page: Path, trained: Path) -> None:
    """What the blocks of a page may use, in the working folder."""
    parts = ("photos/train", "photos/test") if "photos/train" in page.read_text() else ("photos",)
    for seed, name in enumerate((*parts, "new_photos")):
        make_folder(Path(name), seed=seed)
    for seed, part in enumerate(("train", "test")):
        scenes = make_folder(Path("runs/demo/scenes", part), per_class=3, classes=10, seed=seed)
        for folder in [*scenes.iterdir()]:
            folder.rename(scenes / folder.name.removeprefix("class"))
    cv2.imwrite("photo.jpg", np.full((32, 32, 3), 90, np.uint8))
    for name in RUNS:
        shutil.copytree(trained, name)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=lambda page: page.name)
def test_python_runs(page: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = training.train

    def short(config: str | None = None, *words: str, resume: bool = False) -> Path:
        """The training of a block with a tiny network, for a few steps."""
        run = next((word.removeprefix("run.dir=") for word in words if word.startswith("run.dir=")), f"runs/{config}")
        shutil.rmtree(run, ignore_errors=True)
        return whole(config, *fit_words([*words, *TINY, f"run.dir={run}"]), resume=resume)

    monkeypatch.setattr(training, "train", short)
    prepare(page, trained)
    names = {"__name__": "__main__", "images": torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)}
    for block in python_blocks(page):
        code = compile("\n" * block.line + block.text, str(page), "exec")
        if block.runs:
            exec(code, names)
