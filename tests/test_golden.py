"""Losses, targets, centres and gradients against the numbers of the published code, on the same inputs.

The student's outputs in the files are logits; identical prototypes make dinolab's features logits as well. K prototypes.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dinolab.data.types import Views
from dinolab.losses import koleo, prototype_cross_entropy, sinkhorn_knopp, squared_distance, update_centre
from dinolab.methods.dinov2 import patch_weights
from dinolab.methods.prototypes import PrototypeLoss, multi_crop_loss, prototype_targets

CENTRE_MOMENTUM = 0.9  # in all of the published code
Numbers = dict[str, Tensor]


def logits_only(x: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of logits that are the features themselves."""
    return x, torch.eye(x.shape[-1], dtype=x.dtype)


@pytest.fixture
def read(golden: Path) -> Callable[[str], Numbers]:
    def read_file(name: str) -> Numbers:
        with np.load(golden / "losses" / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}

    return read_file


def same(ours: Tensor, theirs: Tensor, rtol: float = 1e-11) -> None:
    """Raises AssertionError unless the values agree to `rtol` of the largest one."""
    torch.testing.assert_close(
        ours.double(), theirs.double().reshape(ours.shape), rtol=0, atol=rtol * float(theirs.abs().max())
    )


def targets_of(logits: Tensor, centre: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Targets by centring, and the centre afterwards."""
    after, options = centre.flatten().clone(), PrototypeLoss(centre_momentum=CENTRE_MOMENTUM)
    return prototype_targets(logits, after, options, {"teacher_temperature": float(temperature)}), after


def multi_crop(crops: list[Tensor], targets_2BK: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss at the student's temperature of 0.1, and the gradient of each group of crops."""
    inputs = [crop.clone().requires_grad_() for crop in crops]
    loss = multi_crop_loss(logits_only(torch.cat(inputs)), targets_2BK, 0.1)
    return loss.detach(), torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("name", ["dino_v1", "dino_v1_after_warmup"])
def test_dino(read: Callable[[str], Numbers], name: str) -> None:
    z = read(name)
    teacher_2BK = z["teacher"].unflatten(0, (2, -1))
    targets, centre = targets_of(teacher_2BK, z["center_before"], z["teacher_temperature"])
    loss, (grad,) = multi_crop([z["student"]], targets)
    same(loss, z["loss"])
    same(grad, z["grad_student"])
    same(centre, z["center_after"])


def test_dino_of_dinov2(read: Callable[[str], Numbers]) -> None:
    z = read("dinov2_dino")
    teacher_2BK = z["teacher"].unflatten(0, (2, -1))
    targets, centre = targets_of(teacher_2BK, z["center_before"], z["teacher_temperature"])
    same(targets, z["teacher_probabilities"])
    same(centre, z["center_after"])
    same(targets_of(teacher_2BK, centre, z["teacher_temperature"])[0], z["teacher_probabilities_next"])
    # its training code swaps the teacher's crops before the loss, and ours in the loss
    loss, (of_global, of_local) = multi_crop([z["student_global"], z["student_local"]], targets.flip(0))
    same(loss, z["loss"])
    same(of_global, z["grad_student_global"])
    same(of_local, z["grad_student_local"])
    # its Sinkhorn is in float32
    same(sinkhorn_knopp(z["teacher"], float(z["teacher_temperature"])), z["sinkhorn_probabilities"], 1e-6)


def views_of(masks_BN: Tensor) -> Views:
    """Views with these masks, of which the first half belongs to the first global crop."""
    masks, empty = masks_BN.flatten(1).unflatten(0, (2, -1)), torch.empty(0)
    return Views(empty, empty, masks, masks.flatten().nonzero().flatten(), empty, [])


def patch_loss(student: Tensor, targets_MK: Tensor, views: Views) -> tuple[Tensor, Tensor]:
    """The loss of masked patches at the student's temperature of 0.1, and the gradient of all patches (B, N, K)."""
    assert views.masked is not None
    x = student.clone().requires_grad_()
    compared = logits_only(x.flatten(0, 1)[views.masked])
    loss = prototype_cross_entropy(*compared, targets_MK, patch_weights(views).double(), 0.1)
    return loss.detach(), torch.autograd.grad(loss, x)[0]


def test_ibot_of_dinov2(read: Callable[[str], Numbers]) -> None:
    z = read("dinov2_ibot")
    views = views_of(z["masks"])
    masked = z["teacher_patches"].flatten(0, 1)[views.masked]
    targets, centre = targets_of(masked, z["center_before"], z["teacher_temperature"])
    same(targets, z["teacher_probabilities_masked"])
    same(centre, z["center_after"])
    loss, grad = patch_loss(z["student_patches"], targets, views)
    # the weights of patches are float32 in both
    same(loss, z["loss"], 1e-7)
    same(grad, z["grad_student_patches"], 1e-7)
    found = sinkhorn_knopp(masked, float(z["teacher_temperature"]))
    same(found, z["sinkhorn_probabilities_masked"], 1e-6)  # float32


def test_ibot(read: Callable[[str], Numbers]) -> None:
    z = read("ibot_v1")
    teacher_2BK = z["teacher_cls"].unflatten(0, (2, -1))
    targets, centre = targets_of(teacher_2BK, z["center_cls_before"], z["teacher_temperature"])
    loss, (of_global, of_local) = multi_crop([z["student_cls"], z["student_local_cls"]], targets)
    same(loss, z["loss_cls"])
    same(of_global, z["grad_student_cls"])
    same(of_local, z["grad_student_local_cls"])
    same(centre, z["center_cls_after"])

    views = views_of(z["masks"])
    patches = z["teacher_patches"].flatten(0, 1)
    targets, _ = targets_of(patches[views.masked], z["center_patch_before"], z["teacher_patch_temperature"])
    loss, grad = patch_loss(z["student_patches"], targets, views)
    same(loss, z["loss_patch"], 1e-7)
    same(grad, z["grad_student_patches"], 1e-7)
    # iBOT's centre is the mean over all patches, and ours over the masked ones, as DINOv2's
    same(update_centre(z["center_patch_before"].flatten(), patches, CENTRE_MOMENTUM), z["center_patch_after"])


def test_koleo(read: Callable[[str], Numbers]) -> None:
    z = read("koleo")
    x, crops = z["x"].requires_grad_(), z["two_crops"].requires_grad_()
    both = sum(map(koleo, crops.chunk(2)), torch.zeros(()))  # each crop by itself
    same(koleo(x).detach(), z["loss"])
    same(torch.autograd.grad(koleo(x), x)[0], z["grad"])
    same(both.detach(), z["two_crops_loss_sum"])
    same(torch.autograd.grad(both, crops)[0], z["two_crops_grad"])
    same(koleo(z["with_duplicate"]), z["with_duplicate_loss"])


def test_koleo_of_dinov3(read: Callable[[str], Numbers]) -> None:
    z = read("dinov3_koleo")
    x = z["x"].requires_grad_()
    loss = koleo(x)
    (grad,) = torch.autograd.grad(loss, x)
    for name in ("", "_distributed_topk1"):
        same(loss.detach(), z[f"loss{name}"], 1e-5)  # float32
        same(grad, z[f"grad{name}"], 1e-5)


@pytest.mark.parametrize(("temperature", "iterations"), [(0.05, 3), (0.05, 1), (0.05, 50), (0.5, 3), (0.03, 3)])
def test_sinkhorn(read: Callable[[str], Numbers], temperature: float, iterations: int) -> None:
    z = read("sinkhorn")
    same(sinkhorn_knopp(z["scores"], temperature, iterations), z[f"assignment_eps{temperature}_it{iterations}"])


def test_squared_distance_is_byols_loss(read: Callable[[str], Numbers]) -> None:
    z = read("byol")
    inputs = [z[f"prediction_{v}"].requires_grad_() for v in (1, 2)]
    unit = [normalize(x, dim=1) for x in (*inputs, z["target_1"], z["target_2"])]
    loss = squared_distance(unit[0], unit[3]) + squared_distance(unit[1], unit[2])
    same(loss.detach(), z["loss"])
    for v, grad in enumerate(torch.autograd.grad(loss, inputs)):
        same(grad, z[f"grad_prediction_{v + 1}"])
