"""`dinolab bench attention`: rows for all combinations, ratios against math, failures as rows, bad input refused."""

import json

import pytest
import torch

from dinolab.bench import attention
from dinolab.bench.attention import bench, parse_model, sides
from dinolab.bench.common import Setting
from dinolab.cli import main
from dinolab.errors import UserError
from dinolab.models.vit import ViT
from dinolab.options import Model

FP32 = Setting(torch.device("cpu"), None, 0.0)


def rows_of(folder):
    return json.loads((folder / "attention.json").read_text())["rows"]


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Two narrow blocks are enough."""

    def parse(text):
        return Model(size="tiny", dim=24, heads=2, depth=2, patch_size=parse_model(text).patch_size)

    monkeypatch.setattr(attention, "parse_model", parse)


def test_every_combination_has_its_row(tmp_path, ticking):
    bench(["tiny/16", "tiny/8"], [32], 3, None, FP32, tmp_path)
    rows = rows_of(tmp_path)
    keys = [(row["model"], row["size"], row["pass"], row["backend"]) for row in rows]
    assert keys == [
        (model, 32, kind, backend)
        for model in ("tiny/16", "tiny/8")
        for kind in ("inference", "training")
        for backend in ("flash", "sdpa", "math", "mixed")
    ]
    assert [row["tokens"] for row in rows] == [5] * 8 + [17] * 8
    for row in rows:  # a timed call takes a second of the ticking clock
        assert (
            row["ms"] == 1000 and row["images_per_s"] == 3 and row["times_as_fast_as_math"] == 1 and "note" not in row
        )
    assert (tmp_path / "attention.png").stat().st_size > 10_000


def test_without_math_there_is_no_ratio(tmp_path):
    bench(["tiny/16"], [16], 1, ["sdpa"], FP32, tmp_path)
    assert len(rows_of(tmp_path)) == 2 and not any("times_as_fast_as_math" in row for row in rows_of(tmp_path))


def test_bf16(tmp_path):
    bench(["tiny/16"], [16], 1, ["sdpa", "math"], Setting(torch.device("cpu"), torch.bfloat16, 0.0), tmp_path)
    assert all(row["times_as_fast_as_math"] > 0 for row in rows_of(tmp_path))


def test_out_of_memory_is_a_row(tmp_path, monkeypatch):
    class Large(ViT):
        def forward(self, crops, masks=None):
            if self.attention_backend == "math" and torch.is_grad_enabled():
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(crops, masks)

    monkeypatch.setattr(attention, "ViT", Large)
    bench(["tiny/16"], [16, 32], 1, None, FP32, tmp_path)
    for row in rows_of(tmp_path):
        if (row["pass"], row["backend"]) == ("training", "math"):
            assert row["note"] == "out of memory" and "ms" not in row
        else:
            assert row["ms"] > 0 and ("times_as_fast_as_math" in row) == (row["pass"] == "inference")
    assert (tmp_path / "attention.png").stat().st_size > 10_000


def test_the_usual_sizes_are_rounded_to_the_patch_and_chosen_ones_are_not():
    assert sides(Model(patch_size=16), None) == [224, 336, 448, 512]
    assert sides(Model(patch_size=14), None) == [224, 336, 448, 518]
    assert sides(Model(patch_size=8), None) == [224, 336, 448, 520]
    assert sides(Model(size="tiny", patch_size=16), [32]) == [32]
    with pytest.raises(UserError, match=r"sizes=230 .* tiny/16; 224 is"):
        sides(Model(size="tiny", patch_size=16), [230])


def test_models_by_name():
    assert parse_model("base/14") == Model(size="base", patch_size=14)
    with pytest.raises(UserError, match=r"models=smal/16.*for example small/16"):
        parse_model("smal/16")
    for text in ("small", "small/", "small/0", "small/x", "huge/16", ""):
        with pytest.raises(UserError, match="SIZE/PATCH"):
            parse_model(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["backends=flsh"], "backends=flsh: must be one of flash, sdpa, math"),
        (["device=cpux"], "device=cpux"),
        (["device=cpu", "models=tiny/16", "sizes=100"], "sizes=100 is not a multiple of the patch of tiny/16; 96 is"),
        (["seconds=-1"], "seconds=-1.0: out of range, 0 or more"),
        (["seconds=nan"], "seconds=nan: out of range"),
        (["batch=-1"], "batch=-1: out of range"),
        (["sizes=0"], "sizes=0: out of range"),
        (["sizes=x"], "sizes: takes"),
        (["odd"], "'odd' is one word too many for `dinolab bench attention`"),
    ],
)
def test_the_command_line_refuses_in_one_line(words, message, tmp_path, capsys):
    assert main(["bench", "attention", *words, f"out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_command_line(tmp_path, ticking):
    words = ["models=tiny/16,tiny/8", "sizes=32", "batch=3", "backends=sdpa", "device=cpu", "seconds=0"]
    assert main(["bench", "attention", *words, f"out={tmp_path}"]) == 0
    assert [(row["model"], row["batch"], row["backend"]) for row in rows_of(tmp_path)] == [
        (model, 3, "sdpa") for model in ("tiny/16", "tiny/8") for _ in ("inference", "training")
    ]
