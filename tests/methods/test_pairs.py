"""Methods that compare two crops: losses against published numbers, five steps against their pseudocode, resuming, mistakes.

tests/test_parallel.py shows that ranks and micro-batches change nothing.
"""

import copy
import json
import math
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import dinolab
from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.losses_pairs import barlow_twins, info_nce, normalised_mse, nt_xent, vicreg
from dinolab.methods import METHODS
from dinolab.methods.base import Method
from dinolab.methods.mocov2 import MoCo
from dinolab.methods.pairs import ALARMS, embed, pair_figures
from dinolab.models.vit import ViT
from dinolab.options import Config
from dinolab.recipes import load_config
from dinolab.training.loop import train_step
from dinolab.training.optim import make_optimizer
from dinolab.training.phases import Phase
from tests.pictures import TINY, fit_words, make_folder

NAMES = ("byol", "mocov2", "simclr", "barlow", "vicreg")
B, STEPS, LR, QUEUE = 4, 5, 0.05, 6  # the queue is not a multiple of the batch
Numbers = dict[str, Tensor]


def byol_of(z: Numbers) -> Tensor:
    return normalised_mse(z["prediction_1"], z["target_2"]) + normalised_mse(z["prediction_2"], z["target_1"])


def moco_of(z: Numbers) -> Tensor:
    return info_nce(z["query"], z["key"], z["queue"].T, float(z["temperature"]))[0]


def barlow_of(z: Numbers) -> Tensor:
    invariance, redundancy = barlow_twins(z["z1"], z["z2"])
    return invariance + z["lambd"] * redundancy


def vicreg_of(z: Numbers) -> Tensor:
    return (torch.stack(vicreg(z["z1"], z["z2"])) * z["coefficients"]).sum()


@pytest.mark.parametrize(("name", "loss_of", "by", "suffix"), [
    ("byol", byol_of, ("prediction_1", "prediction_2"), ""),
    ("moco_v2", moco_of, ("query",), ""),
    ("moco_v1_temperature", moco_of, ("query",), ""),
    ("simclr", lambda z: nt_xent(z["z1"], z["z2"], 0.1)[0], ("z1", "z2"), "_t0.1"),
    ("simclr", lambda z: nt_xent(z["z1"], z["z2"], 0.5)[0], ("z1", "z2"), "_t0.5"),
    ("barlow_twins", barlow_of, ("z1", "z2"), ""),
    ("barlow_twins_small_batch", barlow_of, ("z1", "z2"), ""),
    ("vicreg", vicreg_of, ("z1", "z2"), ""),
    ("vicreg_small_batch", vicreg_of, ("z1", "z2"), ""),
])  # fmt: skip
def test_losses_and_gradients_of_published_code(
    golden: Path, name: str, loss_of: Callable[[Numbers], Tensor], by: tuple[str, ...], suffix: str
) -> None:
    with np.load(golden / "losses" / f"{name}.npz") as arrays:
        z = {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}
    inputs = [z[key].requires_grad_() for key in by]
    loss = loss_of(z)
    torch.testing.assert_close(loss.detach(), z[f"loss{suffix}"], rtol=1e-12, atol=0)
    for key, grad in zip(by, torch.autograd.grad(loss, inputs)):
        torch.testing.assert_close(grad, z[f"grad_{key}{suffix}"], rtol=1e-11, atol=1e-13)


def config(method: str, *words: str) -> Config:
    return load_config(None, fit_words([
        f"method={method}", "model.dim=16", "model.depth=1", "model.heads=2", "model.patch_size=8", "views.global_size=16",
        "views.locals=0", "head.hidden=12", "head.out=8", "predictor.hidden=12", f"loss.queue={QUEUE}", "ema.start=0.9",
        "optim.name=sgd", f"optim.batch_size={B}", f"optim.length={STEPS} steps", "optim.warmup=0 steps", "optim.clip=0",
        f"optim.lr={LR}", f"optim.min_lr={LR}", "optim.lr_scaling=none", "optim.weight_decay=0", "optim.weight_decay_end=0", *words,
    ]))  # fmt: skip


def make_views(step: int, batch: int = B) -> Views:
    g = torch.Generator().manual_seed(step)
    crops = torch.randint(0, 256, (2, batch, 3, 16, 16), generator=g, dtype=torch.uint8)
    return Views(crops, torch.empty(0), None, None, torch.arange(batch), [])


def build(cfg: Config) -> Method:
    torch.manual_seed(1)
    method = METHODS[cfg.method](ViT(cfg.model, 16), cfg).double().train()
    with torch.no_grad():  # a random start, not that of the initial weights, which differ little from crop to crop
        for p in method.student.parameters():
            p.add_(torch.randn_like(p) * 0.2)
        if isinstance(method, MoCo):  # which was made in float32
            method.queue.copy_(F.normalize(method.queue))
    return method


def plain_mlp(net: nn.Module, x: Tensor) -> Tensor:
    for layer in net.children():
        if isinstance(layer, nn.BatchNorm1d):
            x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() * layer.weight + layer.bias
        elif isinstance(layer, nn.ReLU):
            x = x.clamp(min=0)
        else:
            assert isinstance(layer, nn.Linear)
            x = x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
    return x


class Plain:
    """The pseudocode of each paper, image by image, on copies of a method's networks."""

    def __init__(self, method: Method, cfg: Config):
        self.cfg, self.gs = cfg, copy.deepcopy(method.student)
        self.gt = copy.deepcopy(method.teacher) if "teacher" in dict(method.named_children()) else None
        self.queue = [row.clone() for row in getattr(method, "queue", ())]
        self.oldest = 0

    def project(self, nets: nn.ModuleDict, crops: Tensor) -> Tensor:
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = ((crops / 255 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)).double()
        return plain_mlp(nets["head"], torch.cat([nets["backbone"]([one[None]])[0].cls for one in x]))

    def byol(self, v: Tensor) -> Tensor:
        loss = torch.zeros((), dtype=torch.float64)
        for a, b in ((v[0], v[1]), (v[1], v[0])):
            q, z = plain_mlp(self.gs["predictor"], self.project(self.gs, a)), self.project(self.gt, b).detach()
            for i in range(B):
                loss = loss + (q[i] / q[i].norm() - z[i] / z[i].norm()).pow(2).sum() / B
        return loss

    def mocov2(self, v: Tensor) -> Tensor:
        q, k = self.project(self.gs, v[0]), self.project(self.gt, v[1]).detach()
        q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
        loss = torch.zeros((), dtype=torch.float64)
        for i in range(B):
            scores = torch.stack([q[i] @ k[i], *(q[i] @ negative for negative in self.queue)]) / 0.2
            loss = loss - (scores[0].exp() / scores.exp().sum()).log() / B
        for key in k:
            self.queue[self.oldest] = key
            self.oldest = (self.oldest + 1) % QUEUE
        return loss

    def simclr(self, v: Tensor) -> Tensor:
        z = torch.stack([self.project(self.gs, v[0]), self.project(self.gs, v[1])], 1).flatten(
            0, 1
        )  # 2k and 2k + 1 are a pair
        s = torch.stack([torch.stack([a @ b / (a.norm() * b.norm()) for b in z]) for a in z])
        loss = torch.zeros((), dtype=torch.float64)
        for i in range(2 * B):
            others = sum((s[i, k] / 0.1).exp() for k in range(2 * B) if k != i)
            loss = loss - ((s[i, i ^ 1] / 0.1).exp() / others).log() / (2 * B)
        return loss

    def barlow(self, v: Tensor) -> Tensor:
        a, b = (self.project(self.gs, x) for x in v)
        a, b = ((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() for x in (a, b))
        loss = torch.zeros((), dtype=torch.float64)
        for i in range(a.shape[1]):
            for j in range(a.shape[1]):
                c = (a[:, i] * b[:, j]).sum() / B
                loss = loss + ((c - 1) ** 2 if i == j else 0.0051 * c**2)
        return loss

    def vicreg(self, v: Tensor) -> Tensor:
        a, b = (self.project(self.gs, x) for x in v)
        loss = 25 * (a - b).pow(2).mean()
        for x in (a, b):
            loss = loss + 25 * (1 - (x.var(0) + 1e-4).sqrt()).clamp(min=0).mean() / 2
            c = torch.cov(x.T)
            loss = loss + (c - torch.diag(c.diagonal())).pow(2).sum() / x.shape[1]
        return loss

    def run(self) -> list[float]:
        losses, moved = [], {name: torch.zeros_like(p) for name, p in self.gs.named_parameters()}
        first, last = (self.cfg.ema.start, self.cfg.ema.end) if self.gt else (0, 0)  # type: ignore[attr-defined]
        for step in range(STEPS):
            self.gs.zero_grad()
            loss = getattr(self, self.cfg.method)(make_views(step).global_crops)
            loss.backward()
            losses.append(loss.item())
            m = last + (first - last) * (1 + math.cos(math.pi * step / (STEPS - 1))) / 2
            with torch.no_grad():
                for name, p in self.gs.named_parameters():
                    moved[name] = 0.9 * moved[name] + (0 if p.grad is None else p.grad)
                    p -= LR * moved[name]
                theirs = dict(self.gt.named_parameters()) if self.gt else {}
                for name, p in theirs.items():
                    p.copy_(m * p + (1 - m) * dict(self.gs.named_parameters())[name])
        return losses


@pytest.mark.parametrize("name", NAMES)
def test_five_steps_equal_the_pseudocode(name: str) -> None:
    cfg = config(name)
    method = build(cfg)
    plain, phase, optimizer, losses = Plain(method, cfg), Phase(cfg, 20), make_optimizer(method.student, cfg.optim), []
    for step in range(STEPS):
        parts, targets, _ = train_step(method, optimizer, [make_views(step)], phase(step), cfg.optim, nullcontext())
        losses.append(parts[0]["loss"].item())
    assert losses == pytest.approx(plain.run(), rel=1e-9)
    assert abs(losses[0] - losses[-1]) > 1e-3
    for nets, theirs in ((method.student, plain.gs), (getattr(method, "teacher", None), plain.gt)):
        for (key, a), b in zip(nets.named_parameters() if nets else (), theirs.parameters() if theirs else ()):
            torch.testing.assert_close(a, b, atol=1e-9, rtol=0, msg=lambda m, key=key: f"{key}: {m}")
    if plain.queue:
        torch.testing.assert_close(method.queue, torch.stack(plain.queue), atol=1e-9, rtol=0)
    figures = method.figures(targets, {})
    assert 0 < figures["embedding_std"] <= 1 and figures["effective_rank"] > 1


def test_keys_are_shuffled_over_micro_batches_where_batch_norm_leaks() -> None:
    """Each group of keys has images of both micro-batches, and comes back in the order of the images."""
    cfg = config("mocov2", "head.batch_norm=true")
    method, views = build(cfg), make_views(0)
    halves = [views._replace(global_crops=half) for half in views.global_crops.chunk(2, dim=1)]
    keys = torch.cat([t.keys_1BK[0] for t in method.targets(halves, Phase(cfg, 20)(0))])
    for first in (0, 1):
        _, (group,) = embed(method.teacher, views._replace(global_crops=views.global_crops[1:, first::2]), crops=1)
        torch.testing.assert_close(keys[first::2], group)


def test_figures_show_a_collapse() -> None:
    features, same = torch.randn(2, 32, 8), torch.randn(16).expand(2, 32, 16)
    spread, none = pair_figures([features], [torch.randn(2, 32, 16)]), pair_figures([features], [same])
    assert 0.9 < spread["embedding_std"] <= 1 and none["embedding_std"] < 1e-3
    assert [alarm.name for alarm in ALARMS if alarm.shown_by(none)] == ["collapse"]
    assert not any(alarm.shown_by(spread) for alarm in ALARMS)


@pytest.mark.parametrize(("name", "more"), [
    ("byol", ()), ("mocov2", ("loss.queue=20",)), ("simclr", ("run.micro_batch=4", "model.drop_path=0.2")),
    ("barlow", ()), ("vicreg", ("run.micro_batch=4",)),
])  # fmt: skip
def test_a_run_resumes_bit_for_bit(tmp_path: Path, name: str, more: tuple[str, ...]) -> None:
    pictures = make_folder(tmp_path / "pictures", per_class=8)
    words = [*TINY, f"method={name}", "views.locals=0", "head.out=8", "predictor.hidden=16", "run.log_every=1", *more]
    cfg = load_config(None, fit_words([*words, f"data.path={pictures}", f"run.dir={tmp_path / 'run'}"]))
    run = dinolab.train(cfg)
    whole, lines = load_file(run / "model.safetensors"), (run / "metrics.jsonl").read_text().splitlines()
    shutil.rmtree(run / "checkpoints" / "step_00000012")
    dinolab.train(cfg, resume=True)
    assert all(torch.equal(tensor, whole[key]) for key, tensor in load_file(run / "model.safetensors").items())
    again = (run / "metrics.jsonl").read_text().splitlines()
    measured = [
        [{k: v for k, v in json.loads(x).items() if k in ("step", "loss", "embedding_std")} for x in y]
        for y in (lines, again)
    ]
    assert measured[0] == measured[1]


@pytest.mark.parametrize(("name", "words", "message"), [
    *((name, ["views.locals=2"], rf"views\.locals=2: method={name} compares .*; set views\.locals=0") for name in NAMES),
    ("mocov2", ["loss.queue=3"], r"loss\.queue=3 is smaller than optim\.batch_size=4"),
    ("simclr", ["optim.batch_size=1"], r"optim\.batch_size=1: method=simclr compares images with each other"),
    ("barlow", ["run.micro_batch=1"], r"run\.micro_batch=1: method=barlow compares images"),
])  # fmt: skip
def test_mistakes_are_named(name: str, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        config(name, *words)
    assert "\n" not in str(error.value)
