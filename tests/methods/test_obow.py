"""Steps of OBoW against a plain and slow transcription of the paper, place by place and word by word in float64."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.data import draws
from dinolab.methods import METHODS
from dinolab.methods.obow import OBoW, whole_view
from dinolab.models.backbone import make_backbone
from dinolab.models.convnet import ConvNet
from dinolab.models.encoder import normalise
from dinolab.options import Config
from dinolab.recipes import load_config
from dinolab.training.loop import train_step
from dinolab.training.optim import make_optimizer
from dinolab.training.phases import Phase
from tests.methods.test_dino import make_views

COMMON = ["method=obow", "words.number=7", "head.scale=2", "views.locals=3", "optim.batch_size=4", "optim.length=5 steps",
          "optim.warmup=0 steps", "optim.name=sgd", "optim.lr=0.02", "optim.lr_scaling=none", "optim.weight_decay=0",
          "optim.weight_decay_end=0", "optim.clip=0", "ema.start=0.9"]  # fmt: skip
VIT = ["model.dim=16", "model.depth=2", "model.heads=2", "model.patch_size=4", "model.layerscale=0.1",
       "views.global_size=16", "views.local_size=8", "words.view_size=20"]  # fmt: skip
RESNET = ["model.size=resnet18", "views.global_size=32", "views.local_size=32", "words.levels=2", "words.view_size=96"]


def features(backbone: torch.nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Features (B, D) and maps (B, h, w, D) of the last and, of a ResNet, of the stage before it."""
    if not isinstance(backbone, ConvNet):
        each = [backbone([image[None]])[0] for image in images]
        return torch.cat([f.cls for f in each]), [torch.cat([f.patches for f in each])]
    x, maps = images, []
    for stage in backbone.children():
        x = stage(x)
        maps.insert(0, x)
    return x.mean((2, 3)), [m.permute(0, 2, 3, 1) for m in (maps[0], maps[1])]


def weights(generator: torch.nn.Module, words: Tensor) -> Tensor:
    first, norm, _, last = generator.mlp
    h = torch.stack([w / w.norm() for w in words]) @ first.weight.T + first.bias
    h = (h - h.mean(0)) / ((h - h.mean(0)).square().mean(0) + 1e-5).sqrt() * norm.weight + norm.bias
    out = h.clamp(min=0) @ last.weight.T + last.bias
    return out / out.norm(dim=1, keepdim=True)


class PlainOBoW:
    def __init__(self, method: OBoW, levels: int):
        self.student, self.teacher = copy.deepcopy(method.student), copy.deepcopy(method.teacher)
        self.words = [[*vocabulary.words.clone()] for vocabulary in method.vocabularies]
        self.distance, self.seen, self.levels = [0.5] * levels, 0, levels

    def bag(self, places: list[Tensor], level: int) -> tuple[Tensor, list[float]]:
        """An image's bag of words (K,), and the squared distance of each of its places to the nearest word."""
        distances = torch.stack([torch.stack([(x - w).square().sum() for w in self.words[level]]) for x in places])
        shares = torch.stack([(-15 / self.distance[level] * d).softmax(0) for d in distances])
        most = shares.max(0).values
        return most / most.sum(), distances.min(1).values.tolist()

    def loss(self, global_crops: Tensor, local_crops: Tensor, whole: Tensor) -> Tensor:
        with torch.no_grad():
            _, maps = features(self.teacher["backbone"], normalise(whole).double())
        names, losses, self.new = ["generator", "generator_before"], [], []
        kinds = [[features(self.student["backbone"], normalise(x.flatten(0, 1)).double())[0]]
                 for x in (global_crops, local_crops)]  # fmt: skip
        for level in range(self.levels):
            bags, nearest, words = [], [], []
            for b, image in enumerate(maps[level]):
                h, w, _ = image.shape
                if isinstance(self.teacher["backbone"], ConvNet) and min(h, w) >= 5:
                    image, h, w = image[1:-1, 1:-1], h - 2, w - 2
                bag, distances = self.bag([image[i, j] for i in range(h) for j in range(w)], level)
                bags.append(bag)
                nearest += distances
                corners = [(i, j) for i in range(h - 2) for j in range(w - 2)]
                i, j = corners[(self.seen + b) * 2654435769 % 2**32 * len(corners) // 2**32]
                words.append(image[i : i + 3, j : j + 3].mean((0, 1)))
            self.new.append((words, sum(nearest) / len(nearest)))
            made = weights(self.student[names[level]], torch.stack(self.words[level]))
            for (x,) in kinds:
                each = [-(bags[n % len(bags)] * (2 * made @ row).log_softmax(0)).sum() for n, row in enumerate(x)]
                losses.append(torch.stack(each).mean() / self.levels)
        return torch.stack(losses).sum()

    def after_step(self, momentum: float) -> None:
        for ours, theirs in zip(self.student["backbone"].parameters(), self.teacher["backbone"].parameters()):
            theirs.copy_(momentum * theirs + (1 - momentum) * ours)
        for level, (words, distance) in enumerate(self.new):
            for n, word in enumerate(words):
                self.words[level][(self.seen + n) % 7] = word
            self.distance[level] = 0.99 * self.distance[level] + 0.01 * distance
        self.seen += len(words)


def build(cfg: Config) -> OBoW:
    torch.manual_seed(1)
    method = METHODS[cfg.method](make_backbone(cfg.model, cfg.views.global_size), cfg)
    assert isinstance(method, OBoW)
    return method.double().train()


@pytest.mark.parametrize(("words", "steps"), [(VIT, 5), (RESNET, 2)], ids=["vit", "resnet"])
def test_steps_equal_the_plain_ones(words: list[str], steps: int) -> None:
    if words == RESNET:
        pytest.importorskip("timm")
    cfg = load_config(None, [*COMMON, *words])
    levels, side = (2, 96) if words == RESNET else (1, 20)
    method, phase = build(cfg), Phase(cfg, images=20)
    theirs, start = PlainOBoW(method, levels), copy.deepcopy(method.student)
    optimizer = make_optimizer(method.student, cfg.optim, phase.frozen)
    velocity = {name: torch.zeros_like(p) for name, p in theirs.student.named_parameters()}
    losses = []
    for step in range(steps):
        draw = torch.Generator().manual_seed(step)
        whole = torch.randint(0, 256, (4, 3, side, side), generator=draw, dtype=torch.uint8)
        views, s = make_views(cfg, step)._replace(extra=whole), phase(step)
        parts, _, _ = train_step(method, optimizer, [views], s, cfg.optim, torch.autocast("cpu", enabled=False))
        theirs.student.zero_grad()
        loss = theirs.loss(views.global_crops, views.local_crops, whole)
        loss.backward()
        losses.append((parts[0]["loss"].item(), loss.item()))
        with torch.no_grad():
            for name, p in theirs.student.named_parameters():
                if p.grad is not None:
                    velocity[name] = 0.9 * velocity[name] + p.grad
                    p.sub_(s["lr"] * velocity[name])
            theirs.after_step(s["momentum"])
    ours, expected = zip(*losses)
    assert ours == pytest.approx(expected, rel=1e-9)
    for vocabulary, own, distance in zip(method.vocabularies, theirs.words, theirs.distance):
        torch.testing.assert_close(vocabulary.words, torch.stack(own), atol=1e-9, rtol=0)
        assert vocabulary.distance.item() == pytest.approx(distance, rel=1e-9)
    for network, other in ((method.student, theirs.student), (method.teacher, theirs.teacher)):
        for (name, p), q in zip(network.named_parameters(), other.parameters()):
            torch.testing.assert_close(p, q, atol=1e-9, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    for (name, p), q in zip(method.student.named_parameters(), start.parameters()):
        unused = "mask_token" in name or name.endswith("mlp.0.bias")  # which batch norm takes away again
        assert unused or not torch.equal(p, q), name


def test_words_are_spread_evenly_over_the_places() -> None:
    (vocabulary,) = build(load_config(None, [*COMMON, *VIT])).vocabularies
    places = torch.arange(25.0).view(1, 5, 5, 1).expand(1000, -1, -1, 1)  # 9 neighbourhoods; each mean is its middle
    middles = vocabulary.candidates(places, torch.tensor(10**12))[:, 0]
    assert middles.round().unique(return_counts=True)[1].tolist() == pytest.approx([1000 / 9] * 9, abs=3)


def test_the_teacher_sees_the_whole_image_or_its_mirror_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    views = [whole_view(image, draws.rng(0, draws.SAMPLE, n), 16) for n in range(20)]
    mirrored = [np.array_equal(view, views[0][..., ::-1]) for view in views]
    assert 0 < sum(mirrored) < 20
    assert all(np.array_equal(view, views[0]) for view, other in zip(views, mirrored) if not other)


def test_bags_do_not_depend_on_how_many_images_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from dinolab import losses_clusters

    torch.manual_seed(0)
    x, words = torch.randn(5, 6, 3), torch.randn(4, 3)
    whole = losses_clusters.bags_of_words(x, words, torch.tensor(2.0))
    monkeypatch.setattr(losses_clusters, "CHUNK", 50)
    for a, b in zip(whole, losses_clusters.bags_of_words(x, words, torch.tensor(2.0))):
        torch.testing.assert_close(a, b)
    expected = (-2 * torch.cdist(x, words.expand(5, -1, -1)).square()).softmax(-1).amax(1)
    torch.testing.assert_close(whole[0], F.normalize(expected, p=1, dim=1))
