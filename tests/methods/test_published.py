"""Whole steps against plain float64 ones that do what the published code of DINO and DINOv2 does.

The plain steps have PyTorch's own weight norm and its AdamW, one loss for each pair of crops, and loops over parameters.
"""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from dinolab.data.types import Views
from dinolab.methods.momentum import MomentumTeacher
from dinolab.models.encoder import normalise
from dinolab.options import Config
from dinolab.training.optim import make_optimizer, optimizer_step
from dinolab.training.phases import Phase
from tests.methods.test_dino import build, config, make_views

STEPS, FROZEN, CLIP = 6, 2, 0.004
CASES = {  # what differs between the two: which length prototypes have, what freezes them, what is clipped together
    "dino, norm_last_layer=true": ["method=dino", "optim.clip_by=parameter"],
    "dino, norm_last_layer=false": ["method=dino", "optim.clip_by=parameter", "head.train_norms=true"],
    "dinov2": [
        "method=dinov2",
        "head.train_norms=true",
        "ibot_head.separate=false",
        "loss.freeze_by=lr",
        "loss.dino=0.7",
        "loss.koleo=0",
        "optim.clip_by=network",
    ],
}


class Head(nn.Module):
    """The published head, with the weights of ours."""

    def __init__(self, ours: nn.Module):
        super().__init__()
        self.mlp = copy.deepcopy(ours.mlp)
        self.last_layer = weight_norm(nn.Linear(ours.prototypes.in_features, ours.prototypes.out_features, bias=False))
        self.double()
        self.g.data.fill_(1) if ours.prototypes_norm is None else self.g.data.copy_(ours.prototypes_norm)
        self.v.data.copy_(ours.prototypes.weight)
        self.g.requires_grad_(ours.prototypes_norm is not None)

    @property
    def g(self) -> nn.Parameter:
        return self.last_layer.parametrizations.weight.original0

    @property
    def v(self) -> nn.Parameter:
        return self.last_layer.parametrizations.weight.original1

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(nn.functional.normalize(self.mlp(x), dim=-1))


def losses(
    student: nn.ModuleDict, teacher: nn.ModuleDict, views: Views, centres: dict[str, Tensor], heat: float, ibot: bool
) -> dict[str, Tensor]:
    """The class token's loss, and that of the masked patches; the centres move afterwards."""
    globals_, locals_ = (normalise(x.flatten(0, 1)).double() for x in (views.global_crops, views.local_crops))
    masks = views.masks.flatten(0, 1) if ibot else None
    with torch.no_grad():
        seen = teacher["backbone"]([globals_])[0]
        of_cls = teacher["head"](seen.cls).unflatten(0, (2, -1))
    inside, outside = student["backbone"]([globals_], [masks])[0], student["backbone"]([locals_])[0]
    said = student["head"](torch.cat([inside.cls, outside.cls])).unflatten(0, (5, -1))

    def cross_entropy(target: Tensor, centre: Tensor, logits: Tensor) -> Tensor:
        return -(((target - centre) / heat).softmax(-1) * (logits / 0.1).log_softmax(-1)).sum(-1)

    pairs = [(t, v) for t in range(2) for v in range(5) if t != v]
    found = {"dino": sum(cross_entropy(of_cls[t], centres["cls"], said[v]).mean() for t, v in pairs) / len(pairs)}
    centres["cls"] = 0.9 * centres["cls"] + 0.1 * of_cls.flatten(0, 1).mean(0)
    if ibot:
        with torch.no_grad():
            of_patches = [teacher["head"](p[m]) for p, m in zip(seen.patches.flatten(1, 2), masks)]
        each = [student["head"](p[m]) for p, m in zip(inside.patches.flatten(1, 2), masks)]
        parts = [cross_entropy(t, centres["patches"], s).mean() for t, s in zip(of_patches, each) if len(t)]
        found["ibot"] = sum(parts) / len(masks)
        centres["patches"] = 0.9 * centres["patches"] + 0.1 * torch.cat(of_patches).mean(0)
    return found


def clip(parameters: list[nn.Parameter]) -> None:
    grads = [p.grad for p in parameters if p.grad is not None]
    factor = CLIP / (sum(g.square().sum() for g in grads).sqrt() + 1e-6)
    assert factor < 1 or len(parameters) == 1  # that of some small tensors is below
    for g in grads:
        g.mul_(min(1.0, factor.item()))


def published(cfg: Config, ours: MomentumTeacher) -> tuple[nn.ModuleDict, dict[nn.Parameter, dict[str, Tensor]]]:
    """The student and its optimizer's state after a few steps of the published code."""
    v2 = cfg.method == "dinov2"
    backbone = copy.deepcopy(ours.student["backbone"])
    student = nn.ModuleDict({"backbone": backbone, "head": Head(ours.student["head"])})
    teacher = copy.deepcopy(student)
    head = student["head"]
    last = [p for p in (head.g, head.v) if p.requires_grad]
    others = [p for p in student.parameters() if p.requires_grad and not any(p is q for q in last)]
    groups = [[p for p in others if p.ndim > 1], [p for p in others if p.ndim == 1], last]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups], foreach=False)
    centres = {name: torch.zeros(12, dtype=torch.float64) for name in ("cls", "patches")}
    phase = Phase(cfg, 20)
    for step in range(STEPS):
        s = phase(step)
        for group, decay in zip(optimizer.param_groups, (1, 0, 1)):
            group["lr"], group["weight_decay"] = s["lr"], decay * s["weight_decay"]
        parts = losses(student, teacher, make_views(cfg, step), centres, s["teacher_temperature"], v2)
        student.zero_grad()
        if v2:  # each network by its own norm; the last layer has a learning rate of its own, 0 at first
            (0.7 * parts["dino"] + parts["ibot"]).backward()
            for network in student.values():
                clip(list(network.parameters()))
            optimizer.param_groups[2]["lr"] *= step >= FROZEN
        else:  # each parameter by its own norm; then the last layer's gradients are cancelled
            parts["dino"].backward()
            for p in student.parameters():
                if p.grad is not None:
                    clip([p])
            if step < FROZEN:
                head.g.grad = head.v.grad = None
        optimizer.step()
        with torch.no_grad():
            for a, b in zip(teacher.parameters(), student.parameters()):
                a.copy_(s["momentum"] * a + (1 - s["momentum"]) * b)
    return student, optimizer.state


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_the_published_code(name: str) -> None:
    words = [f"optim.length={STEPS} steps", f"loss.freeze_prototypes={FROZEN} steps", f"optim.clip={CLIP}"]
    cfg = config(*words, *CASES[name])
    ours = build(cfg)
    expected, states = published(cfg, ours)
    phase = Phase(cfg, 20)
    optimizer = make_optimizer(ours.student, cfg.optim, phase.frozen)
    began = {n: p.detach().clone() for n, p in ours.student.named_parameters()}
    for step in range(STEPS):
        s, views = phase(step), make_views(cfg, step)
        (targets,) = ours.targets([views], s)
        ours.loss(views, targets, s)[0].backward()
        optimizer_step(optimizer, ours.student, s, cfg.optim)
        ours.after_step(s)
        fixed = all(torch.equal(p, began[n]) for n, p in ours.student.named_parameters() if "prototypes" in n)
        assert fixed == (step < FROZEN)

    theirs = dict(expected.named_parameters())
    theirs["head.prototypes.weight"], theirs["head.prototypes_norm"] = expected["head"].v, expected["head"].g
    steps = {}
    for n, p in ours.student.named_parameters():
        torch.testing.assert_close(p, theirs[n], atol=1e-7, rtol=1e-6, msg=lambda m, n=n: f"{n}: {m}")
        if n == "backbone.mask_token" and cfg.method == "dino":
            continue  # nothing is masked, so it has no gradient
        made, wanted = optimizer.state[p], states[theirs[n]]
        for moment in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(made[moment], wanted[moment], atol=1e-12, rtol=1e-6)
        steps[n] = int(optimizer.state[p]["step"])
        assert steps[n] == int(states[theirs[n]]["step"])
    assert steps["head.prototypes.weight"] == (STEPS if cfg.method == "dinov2" else STEPS - FROZEN)
    assert ("head.prototypes_norm" in steps) == cfg.head.train_norms and "ibot_head" not in ours.student
