"""DINOv2's loss against its formula, image by image in float64."""

import math

import pytest
import torch

from dinolab.losses import koleo, sinkhorn_knopp
from dinolab.models.encoder import normalise
from dinolab.training.phases import Phase
from tests.methods.test_dino import build, config, make_views


@pytest.mark.parametrize("targets", ["centring", "sinkhorn"])
def test_the_sum_of_its_parts(targets: str) -> None:
    cfg = config("method=dinov2", f"loss.targets={targets}", "loss.ibot=0.7", "loss.koleo=0.3", "model.registers=2")
    method, views, s = build(cfg), make_views(cfg, 3), Phase(cfg, 20)(4)
    (made,) = method.targets([views], s)
    loss, logs = method.loss(views, made, s)

    fresh = build(cfg)
    teacher, student = fresh.teacher, fresh.student
    globals_ = normalise(views.global_crops.flatten(0, 1)).double()
    masks = views.masks.flatten(0, 1)
    seen_by_teacher = [teacher["backbone"]([image[None]])[0] for image in globals_]  # not masked
    seen_by_student = [student["backbone"]([image[None]], [mask[None]])[0] for image, mask in zip(globals_, masks)]
    local = [student["backbone"]([image[None]])[0].cls for image in normalise(views.local_crops.flatten(0, 1)).double()]

    def distributions(logits: torch.Tensor) -> torch.Tensor:
        if targets == "sinkhorn":
            return sinkhorn_knopp(logits, s["teacher_temperature"], 3)
        return (logits / s["teacher_temperature"]).softmax(-1)  # the centre starts at zero

    t_cls = distributions(teacher["head"](torch.cat([f.cls for f in seen_by_teacher]))).view(2, 4, -1)
    s_cls = student["head"](torch.cat([f.cls for f in seen_by_student])).view(2, 4, -1)
    s_local = student["head"](torch.cat(local)).view(3, 4, -1)
    said = (torch.cat([s_cls, s_local]) / 0.1).log_softmax(-1)
    pairs = [(t, v) for t in range(2) for v in range(5) if v != t]
    dino = sum(-(t_cls[t] * said[v]).sum(-1).mean() for t, v in pairs) / len(pairs)  # DINO, equation 3

    t_patch = distributions(
        teacher["ibot_head"](torch.cat([f.patches.flatten(0, 2)[m] for f, m in zip(seen_by_teacher, masks)]))
    ).split(masks.sum(1).tolist())
    ibot = []
    for p, f, m in zip(t_patch, seen_by_student, masks):
        if m.any():
            log_q = (student["ibot_head"](f.patches.flatten(0, 2)[m]) / 0.1).log_softmax(-1)
            ibot.append(-(p * log_q).sum(-1).mean())  # the mean over a crop's masked patches
    assert len(ibot) == 7
    ibot_loss = sum(ibot) / 8  # the crop without a mask counts as 0

    cls = torch.cat([f.cls for f in seen_by_student])
    spread = koleo(cls[:4]) + koleo(cls[4:])
    assert logs["dino"].item() == pytest.approx(dino.item(), rel=1e-6)
    assert logs["ibot"].item() == pytest.approx(ibot_loss.item(), rel=1e-6)
    assert logs["koleo"].item() == pytest.approx(spread.item(), rel=1e-6)
    assert loss.item() == pytest.approx((dino + 0.7 * ibot_loss + 0.3 * spread).item(), rel=1e-6)
    assert math.isclose(logs["loss"].item(), loss.item())


def test_patch_targets_come_from_a_head_of_their_own() -> None:
    cfg = config("method=dinov2")
    method, views, s = build(cfg), make_views(cfg, 0), Phase(cfg, 20)(0)
    (t,) = method.targets([views], s)
    assert t.cls_2BK.shape[-1] == 12 and t.patches_MK.shape == (int(views.masks.sum()), 10)
    loss, _ = method.loss(views, t, s)
    loss.backward()
    assert all(p.grad is not None for p in method.student.parameters())
