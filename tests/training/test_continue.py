"""Runs that go on from given weights: adapters, the pull, the best weights, and the stop where training makes them worse."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import dinolab
from dinolab.errors import UserError
from dinolab.models.encoder import normalise
from dinolab.models.lora import add_adapters, merged
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.recipes import load_config
from dinolab.runs.accuracy import clearly_below, worse_in_a_row
from dinolab.runs.build import build_method
from dinolab.training.phases import Phase
from dinolab.weights.load import save_encoder
from tests.methods.test_dino import config, make_views
from tests.pictures import TINY, fit_words, make_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a ViT as the tiny runs have it."""
    folder = tmp_path_factory.mktemp("given")
    torch.manual_seed(3)
    save_encoder(ViT(load_config(None, TINY).model, 16), folder, {})
    return folder


def train(pictures: Path, run: Path, given: Path, *more: str) -> Path:
    words = [*TINY, "method=dino", f"data.path={pictures}", f"run.dir={run}", f"init.weights={given}", *more]
    return dinolab.train(load_config(None, fit_words(words)))


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_merged_adapters_compute_the_same(ffn: str) -> None:
    """In float64, with B no longer zero; where it is zero, they change nothing; the names are those without adapters."""
    cfg = Model(dim=16, depth=2, heads=2, patch_size=4, ffn=ffn, layerscale=0.5)
    plain, images = ViT(cfg, 16).double().eval(), torch.randn(2, 3, 16, 16).double()
    names, before = plain.state_dict().keys(), plain([images])[0].cls
    adapted = ViT(cfg, 16).double().eval()
    adapted.load_state_dict(plain.state_dict())
    add_adapters(adapted, rank=3)
    torch.testing.assert_close(adapted([images])[0].cls, before, atol=1e-12, rtol=0)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert {"blocks.0.attn.qkv.lora_a", "blocks.1.norm2.bias", "norm.weight", "cls_token", "mask_token"} <= trained
    assert not trained & {"blocks.0.attn.qkv.weight", "blocks.0.attn.proj.bias", "patch_embed.proj.weight", "pos_embed"}
    assert sum("lora_b" in name for name in trained) == 2 * 4

    for name, p in adapted.named_parameters():
        if "lora" in name:
            nn.init.normal_(p)
    state = merged(adapted.state_dict())
    assert state.keys() == names
    plain.load_state_dict(state)
    after = adapted([images])[0].cls
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(plain([images])[0].cls, after, atol=1e-10, rtol=0)


def test_a_run_with_adapters_and_a_pull_resumes_bit_for_bit(pictures: Path, given: Path, tmp_path: Path) -> None:
    more = ["init.lora=2", "init.pull=0.5", "init.freeze_backbone=2 steps"]
    run = train(pictures, tmp_path / "run", given, *more)
    whole, start = load_file(run / "model.safetensors"), load_file(given / "model.safetensors")
    assert whole.keys() == start.keys()
    assert not torch.equal(whole["blocks.0.mlp.fc1.weight"], start["blocks.0.mlp.fc1.weight"])
    assert torch.equal(whole["patch_embed.proj.weight"], start["patch_embed.proj.weight"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in (line for line in lines if "loss" in line):
        assert line["loss"] == pytest.approx(line["dino"] + 0.5 * line["pull"], rel=1e-4)
    checkpoint = dinolab.load(run / "checkpoints" / "step_00000012")
    torch.testing.assert_close(checkpoint.state_dict(), dinolab.load(run).state_dict(), atol=0, rtol=0)

    shutil.rmtree(run / "checkpoints" / "step_00000012")
    train(pictures, run, given, *more)
    for name, tensor in load_file(run / "model.safetensors").items():
        assert torch.equal(tensor, whole[name]), name


@pytest.mark.parametrize("method", ["dino", "dinov2"])
def test_the_pull_is_the_distance_of_the_class_features(method: str, tmp_path: Path) -> None:
    vit = ViT(config().model, 16)
    save_encoder(vit, tmp_path, {})
    cfg = config(f"method={method}", f"init.weights={tmp_path}", "init.pull=0.5")
    trained = build_method(cfg, CPU).train()
    with torch.no_grad():
        for p in trained.student.parameters():
            p.add_(0.1 * torch.randn_like(p))
    s, views = Phase(cfg, 20)(0), make_views(cfg, 0)
    (targets,) = trained.targets([views], s)
    loss, logs = trained.loss(views, targets, s)
    with_pull, parts = trained.pull.add(loss, logs, views)
    crops = normalise(views.global_crops.flatten(0, 1))
    masks = None if views.masks is None else [views.masks.flatten(0, 1)]
    ours, start = trained.student["backbone"]([crops], masks)[0].cls, vit([crops])[0].cls
    expected = 1 - (F.normalize(ours, dim=1) * F.normalize(start, dim=1)).sum(1).mean()
    torch.testing.assert_close(parts["pull"], expected.detach())
    torch.testing.assert_close(with_pull, loss + 0.5 * expected)
    assert expected > 0.01 and torch.equal(parts["loss"], with_pull.detach())


def measured(*accuracies: float, images: int = 1000) -> list[dict]:
    return [{"step": n, "knn": knn, "knn_test_images": images} for n, knn in enumerate(accuracies)]


def test_a_fall_counts_where_chance_does_not_explain_it() -> None:
    """The interval of the difference between 0.60 and 0.55 on 1,000 images is 0.0433, by the formula of two shares."""
    assert not clearly_below(*reversed(measured(0.60, 0.558))) and clearly_below(*reversed(measured(0.60, 0.556)))
    assert not clearly_below(*reversed(measured(0.60, 0.556, images=100)))
    assert worse_in_a_row(measured(0.6, 0.5, 0.5, 0.58, 0.5, 0.5)) == 2
    assert worse_in_a_row(measured(0.6, 0.5, 0.58)) == worse_in_a_row(measured(0.6)) == 0


def test_a_run_that_gets_worse_stops_and_keeps_its_best_weights(
    pictures: Path, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_with(*accuracies: float, more: tuple[str, ...] = ()) -> Path:
        left = iter(accuracies)
        found = {"knn_train_images": 1, "knn_test_images": 100}
        monkeypatch.setattr("dinolab.evals.knn.monitor", lambda *_, **__: {"knn": next(left), **found})
        return train(pictures, tmp_path / "run", given, "eval.every=3 steps", "init.freeze_backbone=0 steps", *more)

    with pytest.raises(
        UserError, match=r"from 80\.0% .* to 50\.0%, and 2 measurements in a row .* init\.pull=1.* eval\.stop_after=0"
    ):
        train_with(0.80, 0.85, 0.60, 0.50)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("ALARM") == 2 and "best k-NN 85.0%, at step 3" in log and "The last good checkpoint is" in log
    best = dinolab.load(tmp_path / "run" / "best")
    assert best.info["step"] == 3 and best.info["knn"] == 0.85 and best.info["method"] == "dino"

    run = train_with(0.50, 0.52, more=("eval.stop_after=0",))  # from step 8, so step 9 is measured again
    assert dinolab.load(run / "best").info["step"] == 3 and dinolab.load(run).info["step"] == 12
    assert "best k-NN 85.0%, at step 3" in (run / "log.txt").read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init.lora=4"], r"^init\.lora=4 needs weights to start from: set init\.weights"),
        (["init.pull=0.5"], r"^init\.pull=0\.5 needs weights to start from"),
        (
            ["init.lora=4", "init.weights=x", "model.size=starter", "loss.ibot=0"],
            r"^init\.lora=4: for vision transformers only",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config(None, words)
