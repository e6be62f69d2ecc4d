"""Help texts: what they hold, and that they fit a screen."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from dinolab import cli
from dinolab.cli.grammar import Family, Positional, Verb, walk
from dinolab.cli.help import help_text
from dinolab.cli.verbs import ROOT, VERBS
from dinolab.errors import UserError
from dinolab.fields import duration, option


@dataclass
class Shared:
    """How it is computed. More about that."""

    device: str = option("auto", "where")
    size: int = option(224, "side in pixels", 1, 4096)


@dataclass
class Toy(Shared):
    """Options of the toy."""

    k: int = option(20, "number of neighbours", 1, 10000)
    data: str = option("", "images", required=True)
    length: str = duration("10 epochs", "how long")
    mode: str = option("slow", "which way", choices=("slow", "fast"))
    at: list[float] = option([0.5, 0.5], "a point", 0, 1)
    names: list[str] = option([], "some names")
    seed: int = option(0, "a seed", 0, 1 << 30)
    workers: int = option(0, "workers (0: none)", 0, 64)
    loud: bool = option(True, "whether it is loud")


TOY = Verb(
    "spins",
    print,
    about="It spins for a while.",
    positionals=(Positional("MODEL", "a model"),),
    options=(Toy,),
    examples=("spin runs/a data=b",),
)
TREE = Family("toys", lambda: {"spin": TOY, "toys": Family("more", lambda: {"spin": TOY}, "toy")}, "verb")


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def shown(*words, root=ROOT):
    return help_text(root, words)


def test_the_root_lists_every_verb():
    text = shown("--help")
    for name, verb in VERBS.items():
        assert f"\n  {name}" in text
        assert verb.help in text
    assert text.startswith("usage: dinolab VERB [WHAT] [key=value ...]\n")
    assert text.count("\n  dinolab ") == 3


def test_every_help_fits_a_screen():
    families = [["--help"], *([name, "-h"] for name, one in VERBS.items() if isinstance(one, Family))]
    for words in [*families, *([*place.path, "--help"] for place in walk(ROOT))]:
        lines = shown(*words).splitlines()
        assert len(lines) <= 40, words
        assert max(map(len, lines)) <= 100, words
        assert lines[0].startswith("usage: dinolab")
        assert not any(line.endswith(" ") for line in lines)


def test_a_verb_shows_its_own_options_first():
    text = shown("spin", "--help", root=TREE)
    assert text.startswith(
        "usage: dinolab spin MODEL data=... [key=value ...]\n\nIt spins for a while.\n\n  MODEL  a model\n"
    )
    assert "\nOptions of the toy:\n" in text
    assert "\nHow it is computed:\n" in text
    assert text.index("k=20") < text.index("device=auto")
    assert "number of neighbours (1 to 10,000)" in text
    assert "needed: images" in text
    assert "which way (slow, fast)" in text
    assert "a seed\n" in text  # no limit that nobody meets
    assert "workers (0: none; 0 to 64)" in text
    assert "examples:\n  dinolab spin runs/a data=b" in text


def test_the_flag_may_stand_anywhere():
    usual = shown("spin", "--help", root=TREE)
    for words in (["--help", "spin"], ["-h", "spin"], ["spin", "runs/a", "k=3", "-h"], ["spin", "--k", "3", "--help"]):
        assert shown(*words, root=TREE) == usual
    assert shown("--help", "toys", "spin", "k", root=TREE) == shown("toys", "spin", "--help", "k", root=TREE)
    assert shown("toys", "--help", root=TREE).startswith("usage: dinolab toys TOY [key=value ...]")


@pytest.mark.parametrize(
    ("name", "default", "takes"),
    [
        ("k", "20", "a whole number: 1 to 10,000"),
        ("data", "empty", "a text"),
        ("length", "10 epochs", 'a length of training: "10 epochs", "500 steps", or "10%" of the whole run'),
        ("mode", "slow", "one of slow, fast"),
        ("at", "[0.5,0.5]", "2 numbers, separated by commas: 0 to 1"),
        ("names", "[]", "texts, separated by commas"),
        ("loud", "true", "true or false"),
    ],
)
def test_one_option_in_full(name, default, takes):
    lines = shown("spin", "--help", name, root=TREE).splitlines()
    assert lines[0] == f"{name}=VALUE"
    assert lines[-2:] == [f"  default  {default}", f"  takes    {takes}"]


def test_training_options_by_group():
    text = shown("train", "--help")
    assert shown("train", "method=dino", "--help") == shown("train", "--help", "method=dino") != text
    for group in ("data", "views", "model", "optim", "run"):
        assert f"\n  {group} " in text
    assert "batch_size" in text
    group = shown("train", "--help", "optim")
    assert "optim.lr=0.0005" in group
    assert "(0 to 10)" in group
    assert "views." not in group
    assert shown("plan", "--help", "optim") == group
    assert "takes    a number: 0 to 10" in shown("train", "--help", "optim.lr")
    everything = shown("train", "--help", "all")
    assert "resume=false" in everything
    assert "run.pictures=true" in everything
    assert max(map(len, everything.splitlines())) <= 100


def test_unknown_topics_get_a_hint():
    for words, hint in (
        (["optm"], "did you mean optim?"),
        (["optim.lrr"], "did you mean optim.lr?"),
        (["zzzzz"], "see"),
    ):
        with pytest.raises(UserError, match=f"--help {words[0]}: there is no such option or group; {hint}"):
            shown("train", "--help", *words)
    with pytest.raises(UserError, match="is no verb; did you mean train"):
        shown("trian", "--help")


def test_a_narrow_terminal_gets_narrow_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = shown("train", "--help", "run")
    words = [line for line in text.splitlines() if " " in line.strip()]
    assert max(map(len, words)) <= 60


def test_the_command_prints_help_and_version(capsys):
    assert cli.main([]) == 0
    first = capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == first
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("dinolab 0.")
    assert cli.main(["train", "--help", "optm"]) == 2
    assert "did you mean optim?" in capsys.readouterr().err


def test_an_evaluation_that_is_added_has_its_verb(monkeypatch):
    from dinolab.evals import EVALS

    class Added:
        title, about, Options = "a new measure", "Measures anew.", Toy

    monkeypatch.setitem(EVALS, "added", Added())
    assert "\n  added" in shown("eval", "--help")
    assert "Measures anew.\n" in shown("eval", "added", "--help")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["show", "--help"],
        ["show", "pca", "--help"],
        ["data", "pack", "--help"],
        ["embed", "x", "dta=1"],
        ["trian"],
    ],
)
def test_torch_is_not_imported(words):
    code = (
        f"import sys; from dinolab.cli import main; main({words!r}); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'sklearn', 'matplotlib')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
