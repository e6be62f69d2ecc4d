import pytest
import torch

from dinolab.models.backbone import make_backbone
from dinolab.options import Model, Optim
from dinolab.training.optim import make_optimizer, optimizer_step
from dinolab.training.phases import Phase
from tests.methods.test_dino import build, config


def factors(*words: str) -> dict[str, tuple[float, float]]:
    cfg = config("method=dinov2", "model.depth=3", "model.registers=1", *words)
    method = build(cfg)
    optimizer = make_optimizer(method.student, cfg.optim, Phase(cfg, 20).frozen)
    names = {id(p): name for name, p in method.student.named_parameters()}
    found = {names[id(p)]: (g["lr_factor"], g["decay_factor"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(found) == len(names)
    return found


def test_layer_decay_and_no_weight_decay_on_vectors() -> None:
    f = factors("optim.layer_decay=0.9", "optim.patch_embed_lr=0.2")
    assert f["backbone.blocks.2.attn.qkv.weight"] == pytest.approx((0.9, 1))
    assert f["backbone.blocks.0.attn.qkv.weight"] == pytest.approx((0.9**3, 1))
    for name in ("cls_token", "pos_embed", "mask_token", "register_tokens"):
        assert f[f"backbone.{name}"] == pytest.approx((0.9**4, 1))
    assert f["backbone.patch_embed.proj.weight"] == pytest.approx((0.9**4 * 0.2, 1))
    assert f["backbone.patch_embed.proj.bias"] == pytest.approx((0.9**4 * 0.2, 0))
    assert f["backbone.norm.weight"] == (1, 0)
    assert f["backbone.blocks.1.ls1.gamma"] == pytest.approx((0.9**2, 0))
    assert f["head.prototypes.weight"] == (1, 1) and f["ibot_head.mlp.0.bias"] == (1, 0)


def test_vectors_have_a_learning_rate_of_their_own() -> None:
    f = factors("optim.layer_decay=0.9", "optim.bias_lr=0.024")
    assert f["backbone.norm.weight"] == f["ibot_head.mlp.0.bias"] == pytest.approx((0.024, 0))
    assert f["backbone.blocks.2.attn.qkv.bias"] == pytest.approx((0.9 * 0.024, 0))
    assert f["backbone.blocks.2.attn.qkv.weight"] == pytest.approx((0.9, 1)) and f["head.mlp.0.weight"] == (1, 1)


@pytest.mark.parametrize(("size", "levels"), [
    ("resnet18", {"conv1": 5, "bn1": 5, "layer1.0.conv1": 4, "layer4.1.bn2": 1}),
    ("starter", {"conv_stem": 8, "bn1": 8, "blocks.0.0.conv_dw": 7, "blocks.6.0.bn1": 1, "conv_head": 0, "bn2": 0}),
])  # fmt: skip
def test_layer_decay_goes_by_the_stages_of_a_convolutional_network(size: str, levels: dict[str, int]) -> None:
    student = torch.nn.ModuleDict({"backbone": make_backbone(Model(size=size), 64)})
    optimizer = make_optimizer(student, Optim(layer_decay=0.5))
    factors = {id(p): group["lr_factor"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: factors[id(student.get_parameter(f"backbone.{name}.weight"))] for name in levels}
    assert found == {name: 0.5**level for name, level in levels.items()}


def test_frozen_prototypes_do_not_move_nor_count() -> None:
    cfg = config("method=dino", "loss.freeze_prototypes=1 steps", "optim.clip=0")
    method, s = build(cfg), Phase(cfg, 20)
    optimizer = make_optimizer(method.student, cfg.optim, Phase(cfg, 20).frozen)
    prototypes = method.student["head"].prototypes.weight
    before = prototypes.detach().clone()
    for p in method.student.parameters():
        p.grad = torch.ones_like(p)
    norm = optimizer_step(optimizer, method.student, s(0), cfg.optim)
    others = sum(p.numel() for p in method.student.parameters()) - prototypes.numel()
    assert norm.item() == pytest.approx(others**0.5)
    assert torch.equal(prototypes, before) and optimizer.state[prototypes]["step"] == 0
    for p in method.student.parameters():
        p.grad = torch.ones_like(p)
    optimizer_step(optimizer, method.student, s(1), cfg.optim)
    assert not torch.equal(prototypes, before)


@pytest.mark.parametrize("by", ["whole", "network", "parameter"])
def test_clipping_scales_the_gradient(by: str) -> None:
    cfg = config("method=dino", "loss.freeze_prototypes=0 steps", "optim.clip=1", f"optim.clip_by={by}")
    method = build(cfg)
    optimizer = make_optimizer(method.student, cfg.optim, Phase(cfg, 20).frozen)
    for p in method.student.parameters():
        p.grad = torch.full_like(p, 2.0)
    count = sum(p.numel() for p in method.student.parameters())
    norm = optimizer_step(optimizer, method.student, Phase(cfg, 20)(0), cfg.optim)
    assert norm.item() == pytest.approx(2 * count**0.5)  # of the whole gradient, before
    p = method.student["head"].prototypes.weight
    head = sum(p.numel() for p in method.student["head"].parameters())
    together = {"whole": count, "network": head, "parameter": p.numel()}[by]
    torch.testing.assert_close(
        optimizer.state[p]["exp_avg"], torch.full_like(p, 0.1 / together**0.5), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_sgd_and_lars_are_momentum_over_gradient_and_decay(name: str) -> None:
    """v <- 0.9 v + q (g + decay p); p <- p - lr v. SGD: q = 1, as DINO's code for convolutional networks has it.

    LARS: q = trust |p| / |g + decay p|, and 1 for vectors and where a norm is 0, as in BYOL.
    """
    words = (
        f"optim.name={name}",
        "optim.weight_decay=0.1",
        "optim.weight_decay_end=0.3",
        "optim.clip=0",
        "optim.trust=0.02",
    )
    cfg = config("method=dino", "loss.freeze_prototypes=1 steps", *words)
    method, phase = build(cfg), Phase(cfg, 20)
    optimizer = make_optimizer(method.student, cfg.optim, Phase(cfg, 20).frozen)
    names = dict(method.student.named_parameters())
    torch.nn.init.zeros_(names["backbone.mask_token"])
    assert all(torch.equal(optimizer.state[p]["momentum_buffer"], torch.zeros_like(p)) for p in names.values())
    expected = {name: p.detach().clone() for name, p in names.items()}
    velocity = {name: torch.zeros_like(p) for name, p in names.items()}
    for n in range(3):
        s = phase(n)
        for name, p in names.items():
            p.grad = torch.randn_like(p)
            if not ("prototypes" in s.frozen and "prototypes" in name):
                decay = s["weight_decay"] if p.ndim > 1 else 0.0
                step, size = p.grad + decay * expected[name], expected[name].norm()
                adapted = cfg.optim.name == "lars" and p.ndim > 1 and size > 0
                velocity[name] = 0.9 * velocity[name] + step * (0.02 * size / step.norm() if adapted else 1)
                expected[name] = expected[name] - s["lr"] * velocity[name]
        optimizer_step(optimizer, method.student, s, cfg.optim)
    for name, p in names.items():
        torch.testing.assert_close(p.detach(), expected[name])
        torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], velocity[name])
