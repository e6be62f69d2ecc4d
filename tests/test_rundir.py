"""The one reader of metrics.jsonl: resumed runs, damaged lines, and files that are cut off."""

import json
from pathlib import Path

from dinolab.rundir import RunFolder, read_metrics


def write(path: Path, steps: list[int]) -> Path:
    path.write_text("".join(json.dumps({"step": s, "loss": float(i)}) + "\n" for i, s in enumerate(steps)))
    return path


def test_a_resumed_run_replaces_the_lines_that_it_repeats(tmp_path: Path) -> None:
    rows, problems = read_metrics(write(tmp_path / "m.jsonl", [0, 10, 20, 30, 20, 30, 40]))
    assert [row["step"] for row in rows] == [0, 10, 20, 20, 30, 40]
    assert [row["loss"] for row in rows] == [0, 1, 2, 4, 5, 6]
    assert problems == []


def test_a_cut_last_line_is_ignored_and_other_damage_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [0, 1, 2])
    path.write_text(path.read_text() + '{"step": 50, "lo')
    assert [len(part) for part in read_metrics(path)] == [3, 0]
    path.write_text('{"step": 0}\nnonsense\n{"loss": 0}\n{"step": 1}\n')
    rows, problems = read_metrics(path)
    assert [row["step"] for row in rows] == [0, 1]
    assert [text.split(":")[0] for text in problems] == ["m.jsonl, line 2", "m.jsonl, line 3"]


def test_a_run_without_figures_has_no_lines(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).read_metrics() == ([], [])
    RunFolder(tmp_path).metrics.write_text("")
    assert RunFolder(tmp_path).read_metrics() == ([], [])
