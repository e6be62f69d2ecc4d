"""benchmarks/gpu_check.py: its pieces' command lines are right, results are kept, and a piece ends in time."""

import json
import sys
from pathlib import Path

import pytest
from benchmarks import gpu_check
from benchmarks.gpu_check import PIECES, commands, main

from dinolab.cli.grammar import find, parse
from dinolab.cli.verbs import ROOT
from dinolab.errors import UserError
from dinolab.recipes import load_config


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("piece", PIECES)
def test_command_lines(piece: str, tiny: bool, tmp_path: Path) -> None:
    for command in commands(piece, tiny, "cpu", tmp_path, "photos"):
        if command[1:3] == ["-m", "dinolab"]:
            parse(find(ROOT, command[3:]))  # raises UserError for a wrong word
        elif command[1] == "-m":
            assert command[2] == "pytest" and all(Path(file).exists() for file in command[3:] if "/" in file)
        else:
            assert (Path(gpu_check.ROOT) / command[1]).exists()
        training = [word for word in command if word.startswith(("model.", "optim.", "run.", "data."))]
        if command[1].startswith("benchmarks"):
            load_config(None, training)


def test_pieces_are_kept_and_end_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works = "import sys, pathlib; pathlib.Path(sys.argv[1], 'figures.json').write_text('[7]')"
    fails = "print('no such kernel'); raise SystemExit(3)"
    hangs = "import time; print('begun', flush=True); time.sleep(60)"
    made = {"tests": [works], "attention": [fails, works], "step": [hangs]}
    monkeypatch.setattr(gpu_check, "PIECES", [*made])
    monkeypatch.setattr(
        gpu_check,
        "commands",
        lambda piece, tiny, device, out, data: [[sys.executable, "-c", code, str(out)] for code in made[piece]],
    )
    assert main(["--device", "cpu", "--out", str(tmp_path), "--minutes", "0.05"]) == 1
    said = capsys.readouterr().out
    tests, attention, step = (json.loads((tmp_path / f"gpu_cpu_{piece}.json").read_text()) for piece in made)
    assert tests["done"] and tests["figures"] == {"figures": [7]} and tests["device"] == "cpu"
    assert not attention["done"] and [row["status"] for row in attention["commands"]] == [3]  # the rest is left out
    assert "no such kernel" in said and step["commands"][0]["stopped"] and "step: stopped after its time" in said
    made |= {"attention": [works], "step": [works]}
    assert main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    assert "tests: done before" in capsys.readouterr().out  # the other two are done again
    assert main(["step", "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert "before" not in capsys.readouterr().out


@pytest.mark.parametrize(("words", "message"), [
    (["speed"], "PIECE=speed: one of tests, attention"),
    (["har"], "PIECE=har needs DATA"),
    (["--device", "cuda:77"], "DEVICE=cuda:77: not available here"),
])  # fmt: skip
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(words)
