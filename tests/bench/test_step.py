"""`dinolab bench step`: variants that differ in one thing, on the same weights; crop by crop gives the same features."""

import json
from dataclasses import replace

import pytest
import torch

from dinolab.bench import step
from dinolab.bench.common import Setting
from dinolab.bench.step import AS_CONFIGURED, CROP_BY_CROP, CropByCrop, bench, changes, flops_per_image, has_bf16
from dinolab.cli import main
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.recipes import load_config
from tests.pictures import TINY

CPU = torch.device("cpu")
FP32 = Setting(CPU, None, 0.0)
WORDS = [word for word in TINY if not word.startswith("optim.batch_size")]


def rows_of(folder):
    return json.loads((folder / "step.json").read_text())["rows"]


@pytest.fixture
def few(monkeypatch):
    """One change is enough, and the methods that are built are kept."""
    built = []

    def build_method(cfg, device):
        built.append(original(cfg, device))
        return built[-1]

    original = step.build_method
    monkeypatch.setattr(step, "build_method", build_method)
    monkeypatch.setattr(step, "changes", lambda cfg, setting: ["run.attention=math"])
    return built


def test_crop_by_crop_gives_the_packed_features():
    vit = ViT(Model(dim=16, depth=2, heads=2, patch_size=4, registers=2), 16).double()
    crops = [torch.randn(6, 3, 16, 16).double(), torch.randn(9, 3, 8, 8).double()]
    masks = [torch.rand(6, 16) < 0.5, None]
    one_by_one = CropByCrop(vit, images=3)
    for expected, found in zip(vit(crops, masks), one_by_one(crops, masks), strict=True):
        for name in ("cls", "registers", "patches"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    torch.testing.assert_close(one_by_one(crops)[1].cls, vit(crops)[1].cls)


def test_crop_by_crop_processes_one_view_of_all_images_at_a_time():
    seen = []

    class Backbone(ViT):
        def forward(self, crops, masks=None):
            seen.append([tuple(c.shape) for c in crops])
            return super().forward(crops, masks)

    vit = Backbone(Model(dim=16, depth=1, heads=2, patch_size=4), 16)
    CropByCrop(vit, images=3)([torch.randn(6, 3, 16, 16), torch.randn(9, 3, 8, 8)])
    assert seen == [[(3, 3, 16, 16)]] * 2 + [[(3, 3, 8, 8)]] * 3


def test_changes_leave_out_what_is_configured():
    cfg = load_config(None, ["model.drop_path=0.1", "run.attention=math"])
    words = changes(cfg, FP32)
    assert {
        "run.compile=true",
        "model.drop_path=0.0",
        "model.drop_path=0.4",
        "run.attention=flash",
        "run.attention=sdpa",
    } <= set(words)
    assert not {"model.drop_path=0.1", "run.attention=math", "run.precision=fp32", "run.compile=false"} & set(words)
    assert ("run.precision=bf16" in words) == has_bf16(CPU)
    assert "run.precision=fp32" in changes(cfg, replace(FP32, autocast=torch.bfloat16))
    for word in words:
        load_config(None, [word])


def test_a_row_for_each_variant(tmp_path, ticking, monkeypatch):
    without_compiling = [word for word in changes(load_config("dinov2_vits16", WORDS), FP32) if "compile" not in word]
    monkeypatch.setattr(step, "changes", lambda cfg, setting: without_compiling)
    bench(None, WORDS, 0.0, tmp_path)
    rows = rows_of(tmp_path)
    names = [row["variant"] for row in rows]
    assert (
        names[:2] == [AS_CONFIGURED, CROP_BY_CROP] and "model.drop_path=0.4" in names and "run.attention=math" in names
    )
    for row in rows:  # a timed call takes a second of the ticking clock
        assert row["batch"] == 8  # on a CPU without a recipe
        assert row["ms"] == 1000 and row["images_per_s"] == 8 and row["times_as_fast"] == 1
    assert len({row["matmul_share"] for row in rows}) == 1 and rows[0]["matmul_share"] > 0
    assert (tmp_path / "step.png").stat().st_size > 10_000


def test_variants_share_weights_and_a_learning_rate_of_zero_keeps_them(tmp_path, few):
    torch.manual_seed(1)
    bench("dinov2_vits16", TINY, 0.0, tmp_path)
    _, weights, *variants = few
    assert len(variants) == 3 == len(rows_of(tmp_path))
    for variant in variants:
        own = {id(p) for p in variant.parameters()}
        assert own == {id(p) for p in weights.parameters()}
    for student, teacher in zip(weights.student.parameters(), weights.teacher.parameters()):
        torch.testing.assert_close(student, teacher)  # as at the start


def test_the_variants_differ_in_one_thing(tmp_path, few):
    bench("dinov2_vits16", TINY, 0.0, tmp_path)
    _, weights, configured, by_crop, math = few
    assert [type(m.teacher["backbone"]) for m in (configured, by_crop, math)] == [ViT, CropByCrop, ViT]
    assert [m.student["backbone"].attention_backend for m in (weights, configured, math)] == ["mixed", "mixed", "math"]


def test_out_of_memory_is_a_row(tmp_path, few, monkeypatch):
    def forward(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(CropByCrop, "forward", forward)
    bench("dinov2_vits16", TINY, 0.0, tmp_path)
    configured, by_crop, math = rows_of(tmp_path)
    assert by_crop["note"] == "out of memory" and by_crop["times_as_fast"] is None and by_crop["matmul_share"] is None
    assert configured["times_as_fast"] == 1 and math["times_as_fast"] > 0


def test_operations_do_not_depend_on_the_kernel_nor_on_stochastic_depth():
    words = [word for word in WORDS if "drop_path" not in word]
    plain = flops_per_image(load_config(None, [*words, "optim.batch_size=8"]), CPU)
    same = flops_per_image(
        load_config(None, [*words, "optim.batch_size=8", "model.drop_path=0.4", "run.attention=flash"]), CPU
    )
    more = flops_per_image(load_config(None, [*words, "optim.batch_size=16"]), CPU)
    deep = flops_per_image(load_config(None, [*words, "optim.batch_size=8", "model.depth=4"]), CPU)
    assert plain == same == more and deep > 1.5 * plain


def test_operations_of_a_step():
    """Backward takes twice the forward's, except where no gradient is wanted: the patch embedding's input. The teacher
    sees two of the four crops, forward alone."""
    words = [*WORDS, "optim.batch_size=4", "loss.koleo=0", "loss.ibot=0", "head.prototypes=12"]
    D, H, W, K = 16, 16, 8, 12  # and the head's hidden and bottleneck widths

    def vit(N):
        T = 1 + N
        return 2 * (2 * T * 12 * D * D + 4 * T * T * D), 2 * N * 3 * 4 * 4 * D

    head = 2 * (D * H + H * H + H * W + W * K)
    blocks_16, embed_16 = vit(16)
    blocks_8, embed_8 = vit(4)
    forward = 2 * (blocks_16 + embed_16 + head) + 2 * (blocks_8 + embed_8 + head)
    backward = 2 * forward - 2 * (embed_16 + embed_8)
    teacher = 2 * (blocks_16 + embed_16 + head)
    counted = flops_per_image(load_config(None, words), CPU)
    assert counted == pytest.approx(forward + backward + teacher, rel=0.02)  # and what the loss itself multiplies


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "nope: no such config file; dinolab's own are"),
        (["optim.lrr=3"], "did you mean optim.lr?"),
        (["dinov2_vits16", "run.device=cpux"], "run.device=cpux"),
        (["dinov2_vits16", "views.global_size=225"], "views.global_size=225 is not a multiple"),
    ],
)
def test_the_command_line_refuses_in_one_line(words, message, tmp_path, capsys):
    assert main(["bench", "step", *words, f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
