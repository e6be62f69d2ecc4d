"""Completion scripts, run by the shells themselves."""

import shutil
import subprocess

import pytest

from dinolab.cli.completion import SHELLS
from dinolab.cli.verbs import ROOT, VERBS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scripts, and files to complete."""
    folder = tmp_path_factory.mktemp("completion")
    for shell, write in SHELLS.items():
        (folder / f"script.{shell}").write_text(write(ROOT))
    (folder / "photos").mkdir()
    (folder / "phones.csv").touch()
    return folder


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def bash(folder, line):
    script = (
        f"source script.bash; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMPREPLY=(); _dinolab; "
        'for word in "${COMPREPLY[@]}"; do echo "$word"; done'
    )
    return run(folder, "bash", "--norc", "-c", script)


def fish(folder, line):
    found = run(folder, "fish", "--no-config", "-c", f"source script.fish; complete -C '{line}'")
    return [word.split("\t")[0] for word in found]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dinolab trai", ["train"]),
        ("dinolab show att", ["attention"]),
        ("dinolab completion z", ["zsh"]),
        ("dinolab train dinov2_vits1", ["dinov2_vits14", "dinov2_vits16"]),
        ("dinolab train show_", ["show_schedules="]),
        ("dinolab train show_schedules=", ["true", "false"]),
        ("dinolab train opt", ["optim."]),
        ("dinolab train optim.layer", ["optim.layer_decay="]),
        ("dinolab train base model.size=l", ["large"]),
        ("dinolab train data.path=pho", ["phones.csv", "photos"]),
        ("dinolab job har sp", ["speed"]),
        ("dinolab job ha", ["har"]),
        ("dinolab job photos bud", ["budget="]),
        ("dinolab grid abl", ["ablations", "ablations_small"]),
        ("dinolab job har scale=sm", ["smoke", "small"]),
        ("dinolab embed photos precision=b", ["bf16"]),
        ("dinolab embed pho", ["phones.csv", "photos"]),
        ("dinolab data pack photos out qual", ["quality="]),
        ("dinolab train --h", ["--help"]),
        ("dinolab nothing here", []),
    ],
)
def test_bash(folder, line, expected):
    assert sorted(bash(folder, line)) == sorted(expected)


def test_bash_offers_all_verbs_and_evaluations(folder):
    from dinolab.evals import EVALS

    assert set(bash(folder, "dinolab ")) == {*VERBS, "--help"}
    assert set(bash(folder, "dinolab eval ")) == {*EVALS, "all", "--help"}


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish(folder):
    assert set(fish(folder, "dinolab ")) == set(VERBS)
    assert fish(folder, "dinolab train model.size=l") == ["model.size=large"]
    assert fish(folder, "dinolab job har spe") == ["speed"]
    assert fish(folder, "dinolab embed x data=phot") == ["data=photos/"]
    assert "attention" in fish(folder, "dinolab show ")
    assert "attention" not in fish(folder, "dinolab show pca ")


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_reads_the_script(folder):
    run(folder, "zsh", "-f", "-n", "script.zsh")
    command = "compdef() { : }; source script.zsh; _dinolab_names train; print $names; _dinolab_choices train model.size; print $found"
    names, found = run(folder, "zsh", "-f", "-c", command)
    assert names.startswith("resume= show_schedules= ")
    assert "optim.lr=" in names
    assert "large" in found


def test_scripts_never_start_python(folder):
    for shell in SHELLS:
        assert "python" not in (folder / f"script.{shell}").read_text()
