"""benchmarks/peers.py: turns of several processes, medians, and what the page says, with stand-ins for the other projects."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from peering.page import page  # noqa: E402
from peering.rounds import Process, measure, times_ours  # noqa: E402

STAND_IN = """
import sys
sys.path.insert(0, {scripts!r})
from turns import Turns
print("a library greets")
turns = Turns()
turns.answer({{"versions": {{turns.case["name"]: "1.0"}}, "threads": 1}})
turns.wait()
for n in range(100):
    if n == turns.case["fails_at"]:
        raise ValueError("no such kernel")
    with open("order.txt", "a") as file:
        file.write(turns.case["name"] + "\\n")
    turns.loaded()
    turns.stepped(1.0)
"""


def test_processes_take_turns_and_one_may_fail(tmp_path: Path) -> None:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN.format(scripts=str(BENCHMARKS / "peering")))
    fails_at = {"dinolab": -1, "b": 2, "c": -1}
    starts = {
        name: partial(Process, [sys.executable, script], {"name": name, "fails_at": at}, tmp_path / f"{name}.log")
        for name, at in fails_at.items()
    }
    ours, failed, other = measure(starts, warm_up=1, rounds=3)
    order = (tmp_path / "order.txt").read_text().split()
    assert order == ["dinolab", "b", "c"] * 2 + ["dinolab", "c"] * 2
    assert failed == {"name": "b", "note": "ValueError: no such kernel"}
    for row in (ours, other):
        assert len(row["steps"]) == 3 and row["versions"] == {row["name"]: "1.0"}
        assert row["wall"] == sorted(step["wall"] for step in row["steps"])[1]
        assert not Path("/proc/self/status").exists() or row["peak_memory"] > 1e6


def row(name: str, walls: list[float], cpu: float, memory: float) -> dict[str, Any]:
    steps = [{"wall": wall, "cpu": cpu, "load_wall": 0.1, "load_cpu": 0.1} for wall in walls]
    medians = {"wall": sorted(walls)[len(walls) // 2], "cpu": cpu, "load_wall": 0.1, "load_cpu": 0.1}
    return {"name": name, "versions": {name: "1.0"}, "peak_memory": memory, "steps": steps, **medians}


@pytest.fixture
def found() -> dict[str, Any]:
    facts = {
        "command": "c",
        "environment": {"cpu": "x", "cores": 2, "python": "3", "packages": {"torch": "2"}, "time": "t"},
    }
    sizes = {"batch": 8, "global_size": 224, "local_size": 98, "locals": 8, "prototypes": 65536, "drop_path": 0.3}
    rows = [
        row("dinolab", [2.0, 2.0, 4.0], 4.0, 3e9),
        row("b", [1.0, 3.0, 2.0], 5.0, 2e9),
        {"name": "c", "note": "broken"},
    ]
    right = {
        "dinolab": [True] * 60 + [False] * 140,
        "better": [True] * 100 + [False] * 100,
        "like": [True] * 61 + [False] * 139,
    }
    judged = {name: {"right": each, "steps": 5, "cpu_per_step": 1.0, "cpu": 60.0} for name, each in right.items()}
    case = {"minutes": 10, "train": 5, "test": 200, "size": 112, "k": 20, "seed": 0}
    return {
        "steps": facts | {"case": sizes | {"rounds": 3, "warm_up": 1}, "rows": {"fp32": rows}},
        "quality": facts | {"case": case, "rows": judged},
    }


def test_ratios_are_taken_within_each_turn(found: dict[str, Any]) -> None:
    ours, other, _ = found["steps"]["rows"]["fp32"]
    assert times_ours(other, ours, "wall") == [0.5, 0.5, 1.5]


def test_the_page_says_who_is_better(found: dict[str, Any]) -> None:
    text = page(found)
    assert "| c | failed: broken |" in text
    assert "- wall-clock time: none is better than dinolab." in text  # equal medians
    assert "- CPU time: none is better than dinolab." in text
    assert "- peak memory: better than dinolab is **b** (0.67 of dinolab's)." in text
    assert "Better than dinolab: **better**. The test images cannot tell apart from dinolab: like." in text
    assert "| better | 50.0 (43.1 to 56.9) | +20.0 (" in text
