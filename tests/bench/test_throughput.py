"""`dinolab bench throughput`: operations against the formula, rows, bad input."""

import json

import pytest
import torch

from dinolab.bench.common import Setting
from dinolab.bench.throughput import bench, flops_of_forward
from dinolab.cli import main
from dinolab.errors import UserError
from dinolab.options import Model

FP32 = Setting(torch.device("cpu"), None, 0.0)


@pytest.mark.parametrize(("patch", "size", "registers"), [(16, 224, 0), (8, 64, 4)])
def test_operations_are_those_of_the_formula(patch, size, registers):
    D, depth = 192, 12
    N = (size // patch) ** 2
    T = 1 + registers + N
    a_block = 2 * T * (3 + 1 + 4 + 4) * D * D + 2 * 2 * T * T * D  # qkv, projection and MLP; scores and their use
    embedding = 2 * N * 3 * patch * patch * D
    assert (
        flops_of_forward(Model(size="tiny", patch_size=patch, registers=registers), size) == embedding + depth * a_block
    )


def test_rows(tmp_path, ticking):
    bench(["tiny/16", "tiny/8"], 32, 2, FP32, tmp_path)
    small, large = json.loads((tmp_path / "throughput.json").read_text())["rows"]
    assert (small["model"], small["tokens"], large["model"], large["tokens"]) == ("tiny/16", 5, "tiny/8", 17)
    assert small["params_m"] == pytest.approx(5.5, abs=0.1)
    assert small["ms"] == 1000 and small["images_per_s"] == 2
    assert large["gflops"] > 2 * small["gflops"]
    for row in (small, large):  # a second each: shares are those of the operations
        assert row["matmul_share"] == pytest.approx(2 * row["gflops"] * 1e9 / (2 * 32**3))
        assert row["matmul_tflops"] == pytest.approx(2 * 32**3 / 1e12)
    assert (tmp_path / "throughput.png").stat().st_size > 5_000


def test_bad_input(tmp_path, capsys):
    with pytest.raises(UserError, match="size=225 is not a multiple of the patch of small/14; 224 is"):
        bench(["small/14"], 225, 1, FP32, tmp_path)
    assert main(["bench", "throughput", "models=bas/16", f"out={tmp_path}"]) == 2
    assert "for example base/16" in capsys.readouterr().err
