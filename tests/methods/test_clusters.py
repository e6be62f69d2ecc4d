"""SwAV, DeepCluster-v2 and supervised training: published numbers, plain transcriptions. These and OBoW: resuming, mistakes."""

import copy
import math
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import dinolab
from dinolab.data import draws
from dinolab.errors import UserError
from dinolab.losses_clusters import cluster_cross_entropy, nearest, spherical_means
from dinolab.methods import METHODS
from dinolab.methods.base import Method
from dinolab.methods.supervised import Loss, Mix, draw_mix, mixed
from dinolab.models.encoder import normalise
from dinolab.models.vit import ViT
from dinolab.options import Config
from dinolab.recipes import load_config
from dinolab.rundir import RunFolder
from dinolab.runs.run import Run
from dinolab.training import checkpoint
from dinolab.training.loop import Interrupted, train_step
from dinolab.training.optim import make_optimizer
from dinolab.training.phases import Phase
from tests.methods.test_dino import config, make_views
from tests.pictures import TINY, fit_words, make_folder

PLAIN = ("optim.name=sgd", "optim.weight_decay=0", "optim.weight_decay_end=0", "optim.clip=0", "optim.lr=0.3")


def build(cfg: Config, **more: Any) -> Any:
    torch.manual_seed(1)
    return METHODS[cfg.method](ViT(cfg.model, cfg.views.global_size), cfg, **more).double().train()


def read(golden: Path, name: str) -> dict[str, Tensor]:
    with np.load(golden / "losses" / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["swav", "swav_multicrop", "swav_queue", "swav_queue_not_full"])
def test_swav_has_the_published_numbers(golden: Path, name: str) -> None:
    z = read(golden, name)
    queue = len(z["queue_before"][0]) if "queue_before" in z else 0
    cfg = config("method=swav", "head.bottleneck=8", "head.prototypes=10", "optim.batch_size=6", f"loss.queue={queue}")
    method = build(cfg)
    embeddings = z["embeddings"].requires_grad_()
    prototypes = F.normalize(z["prototypes"], dim=1).requires_grad_()
    method.compare = lambda views: (F.normalize(embeddings, dim=1), prototypes)
    if queue:
        method.queue.copy_(z["queue_before"])
    views: Any = SimpleNamespace(indices=torch.arange(6))
    s: Any = {"queue": 1.0 if name == "swav_queue_not_full" else 2.0}
    (targets,) = method.targets([views], s)
    loss, _ = method.loss(views, targets, s)
    loss.backward()
    same(loss, z["loss"])
    same(embeddings.grad, z["grad_embeddings"])
    same(prototypes.grad, z["grad_prototypes"])
    for crop in range(2):
        if f"assignment_{crop}" in z:
            same(targets.cls_2BK[crop], z[f"assignment_{crop}"])
    if queue:
        same(method.queue, z["queue_after"])


def test_deepcluster_has_the_published_numbers(golden: Path) -> None:
    z = read(golden, "deepcluster_v2")
    image_of_row, images = z["memory_image_index"], z["batch_images"]
    embeddings = z["embeddings"].requires_grad_()
    z_VBD, losses, prototypes = F.normalize(embeddings, dim=1).unflatten(0, (3, 8)), [], []
    for h in range(3):
        memory = z["memory"][h % 2]
        centroids = memory[z[f"initial_places_{h}"]]
        for _ in range(10):
            centroids = spherical_means(memory, centroids)
        same(centroids, z[f"centroids_{h}"])
        assert torch.equal(nearest(memory, centroids), z["assignments"][h, image_of_row])
        prototypes.append(centroids.requires_grad_())
        losses.append(cluster_cross_entropy(z_VBD, prototypes[h], z["assignments"][h, images], 0.1))
    loss = torch.stack(losses).mean()
    loss.backward()
    same(loss, z["loss"])
    same(embeddings.grad, z["grad_embeddings"])
    for h in range(3):
        same(prototypes[h].grad, z[f"grad_prototypes_{h}"])

    method = build(config("method=deepcluster", "head.bottleneck=6", "clusters.number=5"), images=40)
    method.memory[:, image_of_row] = z["memory"]
    method.remember(z_VBD[:2].detach(), images)
    same(method.memory[:, images], z["memory_after"][:, :8])  # the published code writes by place, not by image
    others = [i for i in range(40) if i not in images]
    rows = [image_of_row.tolist().index(i) for i in others]
    same(method.memory[:, others], z["memory"][:, rows])


def embed_plainly(student: torch.nn.ModuleDict, crops: list[Tensor]) -> Tensor:
    """Embeddings (V, B, D) of length one: image by image, batch norm by its formula."""
    cls = [student["backbone"]([image[None]])[0].cls for crop in crops for image in normalise(crop).double()]
    first, norm, _, last = student["head"].mlp
    h = torch.cat(cls) @ first.weight.T + first.bias
    h = (h - h.mean(0)) / ((h - h.mean(0)).square().mean(0) + 1e-5).sqrt() * norm.weight + norm.bias
    z = h.clamp(min=0) @ last.weight.T + last.bias
    return (z / z.norm(dim=1, keepdim=True)).unflatten(0, (len(crops), -1))


def sinkhorn_plainly(scores: Tensor) -> Tensor:
    """(n, K), as in the paper's listing, which keeps its transpose."""
    q = (scores / 0.05).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / len(q)
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q / q.sum(0, keepdim=True)).T


def cross_entropy(q: Tensor, z: Tensor, prototypes: Tensor) -> Tensor:
    return -(q * (z @ prototypes.T / 0.1).log_softmax(1)).sum(1).mean()


class PlainSwAV:
    """SwAV's listing, crop by crop, with a queue of 8 that fills from step 1 on."""

    def __init__(self, method: Method):
        self.student, self.queue = (
            copy.deepcopy(method.student),
            [torch.zeros(0, 8).double(), torch.zeros(0, 8).double()],
        )
        self.frozen = ["head.prototypes.weight"]

    def loss(self, step: int, crops: list[Tensor], images: Tensor) -> Tensor:
        prototypes = self.student["head"].prototypes.weight
        with torch.no_grad():
            prototypes.copy_(prototypes / prototypes.norm(dim=1, keepdim=True))
        z, b = embed_plainly(self.student, crops), len(images)
        loss: Any = 0.0
        for i in range(2):
            rows = torch.cat([self.queue[i], z[i]]) if len(self.queue[i]) == 8 else z[i]
            q = sinkhorn_plainly((rows @ prototypes.T).detach())[-b:]
            others = [v for v in range(len(crops)) if v != i]
            loss = loss + sum(cross_entropy(q, z[v], prototypes) for v in others) / len(others) / 2
            if step >= 1:
                self.queue[i] = torch.cat([z[i].detach(), self.queue[i]])[:8]
        return loss


class PlainDeepCluster:
    """DeepCluster-v2 with a dictionary as its memory and k-means in loops; an epoch is a step."""

    def __init__(self, method: Method):
        self.student, self.memory, self.frozen = copy.deepcopy(method.student), {}, []

    def remember(self, z: Tensor, images: Tensor) -> None:
        self.memory |= {int(i): z[:2, b].detach() for b, i in enumerate(images)}

    def loss(self, step: int, crops: list[Tensor], images: Tensor) -> Tensor:
        if step == 0:
            self.remember(embed_plainly(self.student, crops[:2]), images)
        clusterings = []
        for h, k in enumerate((3, 3)):
            x = [self.memory[i][h % 2] for i in range(4)]
            centroids = [x[i] for i in draws.rng(0, draws.CLUSTERS, 2 * step + h).permutation(4)[:k]]
            for _ in range(10):
                chosen = [max(range(k), key=lambda c: float(row.dot(centroids[c]))) for row in x]
                for c in range(k):
                    total = sum((row for row, at in zip(x, chosen) if at == c), torch.zeros(8).double())
                    centroids[c] = total / total.norm() if c in chosen else centroids[c]
            nearest = [max(range(k), key=lambda c: float(row.dot(centroids[c]))) for row in x]
            clusterings.append((torch.stack(centroids), nearest))
        z = embed_plainly(self.student, crops)
        loss: Any = 0.0
        for centroids, nearest in clusterings:
            q = F.one_hot(torch.tensor([nearest[int(i)] for i in images]), len(centroids))
            loss = loss + sum(cross_entropy(q, z_v, centroids) for z_v in z) / len(z) / len(clusterings)
        self.remember(z, images)
        return loss


@pytest.mark.parametrize(("words", "plain", "more"), [
    (("method=swav", "loss.queue=8", "loss.queue_start=1 steps"), PlainSwAV, {}),
    (("method=deepcluster", "clusters.number=3", "clusters.times=2"), PlainDeepCluster, {"images": 4}),
], ids=["swav", "deepcluster"])  # fmt: skip
def test_five_steps_equal_the_plain_ones(words: tuple[str, ...], plain: type, more: dict[str, int]) -> None:
    cfg = config(*PLAIN, *words)
    method = build(cfg, **more)
    theirs, phase = plain(method), Phase(cfg, images=4)
    optimizer = make_optimizer(method.student, cfg.optim, phase.frozen)
    velocity = {name: torch.zeros_like(p) for name, p in theirs.student.named_parameters()}
    before, losses = copy.deepcopy(method.student), []
    method.after_step({})  # prototypes of length one in float64
    method.prepare([[make_views(cfg, 0)]])
    for step in range(5):
        views, s = make_views(cfg, step), phase(step)
        method.begin_epoch(step)
        parts, _, _ = train_step(method, optimizer, [views], s, cfg.optim, torch.autocast("cpu", enabled=False))
        theirs.student.zero_grad()
        loss = theirs.loss(step, [*views.global_crops, *views.local_crops], views.indices)
        loss.backward()
        losses.append((parts[0]["loss"].item(), loss.item()))
        with torch.no_grad():
            for name, p in theirs.student.named_parameters():
                if p.grad is not None and not (step == 0 and name in theirs.frozen):
                    velocity[name] = 0.9 * velocity[name] + p.grad
                    p.sub_(s["lr"] * velocity[name])
    ours, expected = zip(*losses)
    assert ours == pytest.approx(expected, rel=1e-9)
    for (name, p), q, start in zip(method.student.named_parameters(), theirs.student.parameters(), before.parameters()):
        if "prototypes" in name:  # ours have been scaled after the step, theirs are before the next one
            q = q / q.norm(dim=1, keepdim=True)
        torch.testing.assert_close(p, q, atol=1e-9, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
        assert "mask_token" in name or not torch.equal(p, start), name


def test_supervised_loss_is_that_of_smoothed_and_mixed_labels() -> None:
    cfg = config("method=supervised", "loss.mixup=0", "loss.cutmix=0")
    method, labels = build(cfg, classes=3), torch.tensor([2, 0, 1, 1])
    views = make_views(cfg, 0)._replace(labels=labels)
    torch.set_default_dtype(torch.float64)
    try:
        loss, _ = method.loss(views, None, {})
        logits = method.student["classifier"](method.student_features(views)[1])
        expected = F.cross_entropy(logits, labels.repeat(5), label_smoothing=0.1)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)

        method.loss_options = Loss(smoothing=0.0, mixup=0.8, cutmix=0.0)
        mix = draw_mix(method.loss_options, [0, 0, 1, 2, 3])
        assert mix is not None and mix.box is None and 0 < mix.share < 1
        blended = views._replace(global_crops=mixed(views.global_crops, mix), local_crops=mixed(views.local_crops, mix))
        logits = method.student["classifier"](method.student_features(blended)[1])
        both = [F.cross_entropy(logits, y.repeat(5)).item() for y in (labels, labels.flip(0))]
        assert method.loss(views, None, {})[0].item() == pytest.approx(mix.share * both[0] + (1 - mix.share) * both[1])
    finally:
        torch.set_default_dtype(torch.float32)


def test_mixup_and_cutmix_take_the_share_that_they_say() -> None:
    crops = torch.zeros(2, 2, 3, 100, 100, dtype=torch.uint8)
    crops[:, 1] = 200
    assert mixed(crops, Mix(0.25, None))[0, :, 0, 0, 0].tolist() == [150, 50]
    seen = set()
    for n in range(40):
        mix = draw_mix(Loss(), [n])
        assert mix is not None
        seen.add(mix.box is None)
        share = 1 - mixed(crops, mix)[0, 0].double().mean().item() / 200
        assert share == pytest.approx(mix.share, abs=0.02)
    assert seen == {True, False}


RESUMED = {
    "swav": ["head.prototypes=12", "loss.queue=16", "loss.queue_start=1 steps"],
    "deepcluster": ["clusters.number=5"],
    "obow": ["words.number=20"],
    "supervised": ["optim.name=lars", "optim.trust=0.02"],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"))


def train(images: Path, run: Path, *words: str) -> RunFolder:
    words = tuple(fit_words([*TINY, "eval.every=0 steps", *words]))
    return RunFolder(dinolab.train(None, f"data.path={images}", f"run.dir={run}", *words))


@pytest.mark.parametrize("name", RESUMED)
def test_interrupted_and_resumed_equals_uninterrupted(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    words = [f"method={name}", *RESUMED[name]]
    whole = train(images, tmp_path / "whole", *words)
    logged = Run.log_step

    def log_step(self: Run, line: dict, *args: object) -> None:
        logged(self, line, *args)
        if line["step"] == 6:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log_step", log_step)
        with pytest.raises(Interrupted):
            train(images, tmp_path / "parts", *words)
    parts = train(images, tmp_path / "parts", *words)
    states = []
    for run in (whole, parts):
        dcp_to_torch_save(checkpoint.checkpoints(run.checkpoints)[-1], tmp_path / "state.pt")
        states.append(torch.load(tmp_path / "state.pt")["method"])
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    rows = whole.read_metrics()[0]
    assert all(math.isfinite(value) for row in rows for value in row.values()) and rows[0]["loss"] != rows[-1]["loss"]
    method = METHODS[name]
    assert {figure for panel in method.PANELS for figure in panel.series} <= rows[-1].keys()
    assert not any(alarm.shown_by({}) for alarm in method.ALARMS)  # a line without the figures is no trouble


@pytest.mark.parametrize(("words", "message"), [
    (["method=swav", "head.predictor=true"], r"head\.predictor=true: method=swav has no such option; it belongs to dinov2, dino, distill"),
    (["method=swav", "loss.queue=3840", "optim.batch_size=256", "loss.compare=mse"], r"loss\.compare=mse: method=swav has no such"),
    (["method=swav", "loss.queue=100", "optim.batch_size=64"], r"loss\.queue=100 is not a multiple of optim\.batch_size=64; 128 is"),
    (["method=obow", "words.number=63"], r"words\.number=63 is smaller than optim\.batch_size=64: each image of a batch adds"),
    (["method=obow", "words.view_size=15"], r"words\.view_size=15 is smaller than model\.patch_size=16"),
    (["method=obow", "words.levels=2"], r"words\.levels=2: model\.size=small has no stage before the last, only a ResNet has"),
    (["method=deepcluster", "clusters.number=1"], r"clusters\.number=1: out of range"),
])  # fmt: skip
def test_mistakes_in_options_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_config(None, words)
    assert "\n" not in str(error.value)


def test_mistakes_about_the_images_are_named(images: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"clusters\.number=25: more clusters than the 24 images of .*; set it to 24 or less"
    ):
        train(images, tmp_path / "run", "method=deepcluster", "clusters.number=25")
    with pytest.raises(UserError, match=r"the whole run sees only 16 images"):
        train(images, tmp_path / "run", "method=deepcluster", "clusters.number=20", "optim.length=2 steps")
    with pytest.raises(UserError, match=r"class0 has no labels, and method=supervised needs them"):
        train(images / "class0", tmp_path / "run", "method=supervised")
