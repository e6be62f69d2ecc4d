"""A forecast on paper: its counts agree with real steps, its sums with each other, and it names what it assumes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinolab.bench.step import flops_per_image
from dinolab.cli import main
from dinolab.errors import UserError
from dinolab.plan.devices import DEVICES, parse_machine
from dinolab.plan.paper import UPDATE, plan_on_paper
from dinolab.plan.shapes import Shapes, step_shapes
from dinolab.recipes import load_config
from dinolab.runs.build import build_method
from tests.pictures import TINY

CPU = torch.device("cpu")
WIDE = [
    *TINY,
    "model.drop_path=0",
    "model.dim=64",
    "optim.batch_size=512",
    "loss.koleo=0",
]  # KoLeo's cost is no line


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return step_shapes(load_config(None, WIDE), bf16=False)


def test_operations_and_state_are_those_of_a_real_step(shapes: Shapes) -> None:
    cfg = load_config(None, WIDE)
    assert shapes.flops == pytest.approx(flops_per_image(cfg, CPU), rel=0.02)
    method = build_method(cfg, CPU)
    trained = sum(p.numel() for p in method.student.parameters())
    assert shapes.parameters == trained
    # the student's weights, gradients and two moments, the teacher's weights, and some small buffers
    every = sum(p.numel() for p in method.parameters())
    assert shapes.state == pytest.approx(4 * (3 * trained + every), rel=0.02)


def test_memory_grows_with_the_micro_batch_and_shrinks_with_shards(shapes: Shapes) -> None:
    assert shapes.bytes(64, 32) - shapes.bytes(64, 16) == pytest.approx(16 * shapes.activations) and shapes.targets >= 0
    # each token of 64 numbers is kept at least twice a block in fp32: 2 x 17 + 2 x 5 tokens an image, two blocks
    assert shapes.activations > 44 * 64 * 4 * 2 * 2
    split = shapes.bytes(64, 32) - shapes.bytes(64, 32, shards=4)
    assert split == pytest.approx(0.75 * shapes.state - shapes.largest_part)
    half = step_shapes(load_config(None, WIDE), bf16=True)
    assert 0.5 * shapes.activations < half.activations < shapes.activations


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Shapes(flops=1e12, parameters=10**9, state=20e9, activations=1e9, targets=0, rest=0, largest_part=1e8)
    monkeypatch.setattr("dinolab.plan.paper.step_shapes", lambda cfg, bf16: replace(counted, flops=1e12 * (2 - bf16)))


def test_sums(planted: None) -> None:
    words = [*TINY, "run.precision=auto", "optim.batch_size=512", "optim.length=10 epochs"]
    paper = plan_on_paper(load_config(None, words), "4xA100", images=5120, use=0.5)
    (phase,) = paper.phases
    update = 4 * UPDATE * 1e9 / 4 / 2039e9
    assert phase.steps == 100 and phase.step_seconds == pytest.approx(512e12 / (4 * 0.5 * 312e12) + update)
    assert paper.seconds == pytest.approx(100 * phase.step_seconds)
    assert (phase.split_bytes, phase.whole_bytes) == (pytest.approx(134.1e9), pytest.approx(149e9))  # 128 images each
    assert phase.largest == 64  # 5 + 0.1 + 64 + 1 GB of 72
    auto = plan_on_paper(load_config(None, [*words, "run.micro_batch=auto"]), "4xA100", images=5120)
    assert auto.phases[0].micro_batch == 64
    slow = plan_on_paper(load_config(None, words), "T4", images=5120, use=1.0)
    assert slow.precision == "fp32" and slow.phases[0].step_seconds > 512 * 2e12 / 8.1e12
    assert slow.phases[0].largest == 0  # the state alone is too large


def test_on_the_command_line(planted: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "optim.length=2 epochs", "highres.length=3 steps", "images=80", f"json={tmp_path / 'paper.json'}"]
    assert main(["plan", *words, "on=2xh100"]) == 0
    said, figures = capsys.readouterr().out, json.loads((tmp_path / "paper.json").read_text())
    assert said.startswith("FORECAST ON PAPER for 2 x H100") and "Assumed" in said and "35%" in said
    assert [phase["steps"] for phase in figures["phases"]] == [20, 3] and figures["on_paper"]
    assert "highres.micro_batch=4 is the largest that should fit" in said


@pytest.mark.parametrize(("more", "message"), [
    (["on=8xH1000", "images=9"], "on=8xH1000: write a number and a device, such as 8xH100; known devices are T4, L4, 4090, A100, H"),
    (["on=0xH100", "images=9"], "on=0xH100"),
    (["on=3xH100", "images=90"], "optim.batch_size=8 cannot be shared out equally over 3 processes"),
    (["on=H100"], "set data.path=DIR, or images=N"),
    (["images=9"], "belong to on="),
])  # fmt: skip
def test_mistakes_are_one_line(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *TINY, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_every_known_device_is_read() -> None:
    for name, device in DEVICES.values():
        assert parse_machine(f"12 x {name}") == (12, name, device) and parse_machine(name)[0] == 1
    with pytest.raises(UserError, match="on="):
        parse_machine("")
