"""Five whole steps of DINO and of its variants against Algorithm 1 of the paper, written plainly and slowly in float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.losses import sinkhorn_knopp
from dinolab.methods import METHODS
from dinolab.methods.momentum import MomentumTeacher
from dinolab.models.backbone import make_backbone
from dinolab.options import Config
from dinolab.recipes import load_config
from dinolab.training.optim import make_optimizer, optimizer_step
from dinolab.training.phases import Phase
from tests.pictures import fit_words

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def config(*words: str) -> Config:
    return load_config(None, fit_words([
        "model.dim=16", "model.depth=2", "model.heads=2", "model.patch_size=4", "model.layerscale=0.1",
        "views.global_size=16", "views.local_size=8", "views.locals=3",
        "head.hidden=24", "head.bottleneck=8", "head.prototypes=12",
        "ibot_head.hidden=24", "ibot_head.bottleneck=8", "ibot_head.prototypes=10",
        "optim.batch_size=4", "optim.length=5 steps", "optim.warmup=2 steps", "optim.lr=0.01", "optim.lr_scaling=none",
        "loss.freeze_prototypes=1 steps", "loss.teacher_temperature_warmup=3 steps", "ema.start=0.9", *words,
    ]))  # fmt: skip


def make_views(cfg: Config, step: int, batch: int = 4) -> Views:
    g = torch.Generator().manual_seed(step)
    images = (2, batch, 3, cfg.views.global_size, cfg.views.global_size)
    crops = (cfg.views.locals, batch, 3, cfg.views.local_size, cfg.views.local_size)
    n = (cfg.views.global_size // cfg.model.patch_size) ** 2
    masks = torch.rand(2, batch, n, generator=g) < 0.4
    masks[0, 0] = False  # one crop is not masked
    return Views(
        torch.randint(0, 256, images, generator=g, dtype=torch.uint8),
        torch.randint(0, 256, crops, generator=g, dtype=torch.uint8),
        *((masks, places(masks)) if cfg.method == "dinov2" else (None, None)),
        torch.arange(batch),
        [],
    )


def places(masks: torch.Tensor) -> torch.Tensor:
    return masks.flatten().nonzero().squeeze(1)


def build(cfg: Config) -> MomentumTeacher:
    torch.manual_seed(1)
    backbone = make_backbone(cfg.model, cfg.views.global_size)
    method = METHODS[cfg.method](backbone, cfg).double().train()
    with torch.no_grad():  # biases at zero and LayerScale at one value would hide mistakes
        for p in method.student.parameters():
            p.add_(torch.randn_like(p) * 0.05)
        method.teacher.load_state_dict(method.student.state_dict())
    return method


def split(views: Views, parts: int) -> list[Views]:
    chunks = [
        x.chunk(parts, dim=1) if x is not None else (None,) * parts
        for x in (views.global_crops, views.local_crops, views.masks)
    ]
    return [
        Views(crops, local_crops, m, None if m is None else places(m), index, [])
        for crops, local_crops, m, index in zip(*chunks, views.indices.chunk(parts))
    ]


def run(cfg: Config, method: MomentumTeacher, micro: int = 1) -> list[float]:
    phase, losses = Phase(cfg, images=20), []
    optimizer = make_optimizer(method.student, cfg.optim, phase.frozen)
    for step in range(phase.total):
        s, batches = phase(step), split(make_views(cfg, step), micro)
        targets = method.targets(batches, s)
        total = 0.0
        for views, t in zip(batches, targets):
            loss, _ = method.loss(views, t, s)
            (loss / micro).backward()
            total += loss.item() / micro
        optimizer_step(optimizer, method.student, s, cfg.optim)
        method.after_step(s)
        losses.append(total)
    return losses


def compared(cfg: Config, teacher: Tensor, student: Tensor, heat: float) -> Tensor:
    """The loss of two crops' logits (B, K), image by image, by the definition of loss.compare; those of the teacher are centred."""
    total, how = torch.zeros((), dtype=torch.float64), cfg.loss.compare
    for b, (t, s) in enumerate(zip(teacher, student)):
        p, q, unit = (t / heat).softmax(0), (s / 0.1).softmax(0), s / s.norm()
        if how == "cross_entropy":
            total = total - (p * q.log()).sum()
        elif how == "mse_softmax":
            total = total + ((p - q) ** 2).sum()
        elif how == "mse":
            total = total + 2 - 2 * t.dot(unit) / t.norm()
        else:
            total = total - torch.stack([key.dot(unit) / key.norm() / 0.1 for key in teacher]).log_softmax(0)[b]
    return total / len(student)


def algorithm_1(
    cfg: Config, student: torch.nn.ModuleDict
) -> tuple[torch.nn.ModuleDict, torch.nn.ModuleDict, Tensor, list[float]]:
    """gs, gt, C after five steps, and the losses; crop by crop, Adam by its formula, schedules by theirs."""
    gs, gt = copy.deepcopy(student), copy.deepcopy(student)
    c = torch.zeros(cfg.head.prototypes, dtype=torch.float64)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p), 0) for name, p in gs.named_parameters()}
    losses = []
    total, warmup = 5, 2
    for step in range(total):
        views = make_views(cfg, step)
        crops = [*views.global_crops, *views.local_crops]

        def forward(net, image: Tensor) -> Tensor:
            x = ((image.float() / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)).double()
            rows = []
            for one in x:  # image by image
                cls = net["backbone"]([one[None]])[0].cls
                h = cls
                for layer in net["head"].mlp:
                    h = layer(h)
                if net is gs and net["head"].predictor is not None:
                    h = net["head"].predictor(h)
                h = h / h.norm(dim=-1, keepdim=True)
                w = net["head"].prototypes.weight
                rows.append(h @ (w / w.norm(dim=1, keepdim=True)).T)
            return torch.cat(rows)

        heat = min(1, step / 3)
        tpt = 0.04 + heat * (0.07 - 0.04)
        t = [forward(gt, x).detach() for x in crops[:2]]
        s = [forward(gs, x) for x in crops]
        # the logarithm of Sinkhorn-Knopp's targets has them as its softmax
        even = (tpt * sinkhorn_knopp(torch.cat(t), tpt).log()).chunk(2)
        aims = even if cfg.loss.targets == "sinkhorn" else [x - c for x in t]
        loss, n = torch.zeros((), dtype=torch.float64), 0
        for i in range(2):
            for j in range(len(crops)):
                if i != j:
                    loss = loss + compared(cfg, aims[i], s[j], tpt)
                    n += 1
        loss = loss / n
        gs.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if cfg.loss.targets == "centring":
            c = 0.9 * c + 0.1 * torch.cat(t).mean(0)

        if step < warmup:
            lr = 0.01 * (step + 1) / warmup
        else:
            lr = 1e-6 + (0.01 - 1e-6) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup - 1))) / 2
        wd = 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * step / (total - 1))) / 2
        m = cfg.ema.end + (cfg.ema.start - cfg.ema.end) * (1 + math.cos(math.pi * step / (total - 1))) / 2
        live = {k: p for k, p in gs.named_parameters() if p.grad is not None and not (step < 1 and "prototypes" in k)}
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in live.values()))
        with torch.no_grad():
            for name, p in live.items():
                g = p.grad * min(1.0, 3.0 / (norm + 1e-6))
                m1, m2, count = moments[name]
                m1, m2, count = 0.9 * m1 + 0.1 * g, 0.999 * m2 + 0.001 * g * g, count + 1
                moments[name] = (m1, m2, count)
                p.mul_(1 - lr * (wd if p.ndim > 1 else 0.0))
                p.sub_(lr * (m1 / (1 - 0.9**count)) / ((m2 / (1 - 0.999**count)).sqrt() + 1e-8))
            for ps, pt in zip(gs.parameters(), gt.parameters()):
                pt.copy_(m * pt + (1 - m) * ps)
    return gs, gt, c, losses


@pytest.mark.parametrize("words", [
    (), ("ema.start=0", "ema.end=0"), ("loss.targets=sinkhorn",), ("views.locals=0",), ("loss.targets=softmax",),
    ("loss.compare=mse",), ("loss.compare=mse_softmax",), ("loss.compare=infonce", "loss.targets=softmax"), ("head.predictor=true",),
], ids=" ".join)  # fmt: skip
def test_five_steps_equal_algorithm_1(words: tuple[str, ...]) -> None:
    cfg = config("method=dino", *words)
    method = build(cfg)
    gs, gt, c, expected = algorithm_1(cfg, method.student)
    losses = run(cfg, method)
    assert losses == pytest.approx(expected, rel=1e-9)
    for ours, theirs in ((method.student, gs), (method.teacher, gt)):
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters()):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(method.centre, c, atol=1e-9, rtol=0)
    moved = [(a - b).abs().max().item() for a, b in zip(method.student.parameters(), build(cfg).student.parameters())]
    assert sum(d > 1e-3 for d in moved) > 0.9 * len(moved)  # steps large enough that equality means something


@pytest.mark.parametrize("words", [
    ("method=dino",), ("method=dino", "loss.targets=sinkhorn", "views.locals=0"),
    ("method=dinov2", "loss.koleo=0"), ("method=dinov2", "loss.koleo=0", "loss.targets=sinkhorn"),
    ("method=dino", "loss.compare=infonce"), ("method=dino", "loss.compare=mse", "head.predictor=true"),
])  # fmt: skip
def test_micro_batches_give_the_step_of_the_whole_batch(words: tuple[str, ...]) -> None:
    """KoLeo is left out: a nearest neighbour is looked for within a micro-batch."""
    cfg = config(*words)
    whole, parts = build(cfg), build(cfg)
    assert run(cfg, whole) == pytest.approx(run(cfg, parts, micro=2), rel=1e-9)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values()):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def test_outputs_have_no_sinkhorn() -> None:
    with pytest.raises(UserError, match=r"loss\.compare=infonce compares outputs: set loss\.targets=centring"):
        config("method=dino", "loss.targets=sinkhorn", "loss.compare=infonce")


def test_the_teacher_takes_no_gradient_and_no_stochastic_depth() -> None:
    cfg = config("method=dino", "model.drop_path=0.5")
    method = build(cfg)
    s = Phase(cfg, 20)(0)
    first, again = (method.targets([make_views(cfg, 0)], s)[0].features_2BD for _ in range(2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert not any(p.requires_grad for p in method.teacher.parameters())


def test_batch_norm_in_the_head_keeps_outputs_apart() -> None:
    """Without it, nearly constant features give nearly constant outputs: the flat start of small runs."""
    from dinolab.models.heads import DINOHead
    from dinolab.options import Head

    x = torch.ones(64, 16) + 1e-3 * torch.randn(64, 16)
    plain = DINOHead(16, Head(hidden=32, bottleneck=8, prototypes=20))(x)
    normed = DINOHead(16, Head(hidden=32, bottleneck=8, prototypes=20, batch_norm=True))(x)
    assert plain.std(0).max() < 0.01 and normed.std(0).min() > 0.1
    assert normed.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(F.normalize(normed, dim=-1).norm(dim=-1), torch.ones(64))
