"""The parts that methods with prototypes share: options, targets, the multi-crop loss, figures and alarms.

Shapes: B images, L local crops, V = 2 + L crops of an image, D width of a feature, K prototypes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dinolab.fields import duration, option
from dinolab.losses import centred_softmax, prototype_cross_entropy, sinkhorn_knopp, update_centre
from dinolab.methods.base import Alarm, StepValues
from dinolab.methods.schedules import Freeze, Phase, Schedule, ramp
from dinolab.panels import HEALTH, SCHEDULES, Panel


@dataclass
class PrototypeLoss:
    targets: str = option(
        "centring",
        "what keeps teacher outputs from collapsing; softmax: nothing but the teacher's lower temperature",
        choices=("centring", "sinkhorn", "softmax"),
    )
    student_temperature: float = option(0.1, "temperature of the student's softmax", 1e-3, 10)
    teacher_temperature: float = option(0.07, "temperature of the teacher's softmax after its warm-up", 1e-3, 10)
    teacher_temperature_start: float = option(0.04, "temperature of the teacher's softmax at the start", 1e-3, 10)
    teacher_temperature_warmup: str = duration("30 epochs", "linear warm-up of the teacher temperature")
    centre_momentum: float = option(0.9, "momentum of the centre (with targets=centring)", 0, 1)
    sinkhorn_iterations: int = option(3, "iterations of Sinkhorn-Knopp (with targets=sinkhorn)", 1, 100)
    freeze_prototypes: str = duration("1 epochs", "how long the prototypes are held fixed at the start")
    freeze_by: str = option(
        "gradient",
        "how they are held fixed; gradient: they get none, and AdamW skips them, as DINO; lr: their learning rate is 0, but "
        "their gradients are clipped with the others and AdamW's moments run on, as DINOv2",
        choices=("gradient", "lr"),
    )


@dataclass
class Targets:
    """The targets of one micro-batch; computed with all micro-batches of the step in view, without gradient."""

    cls_2BK: Tensor  # distributions over the prototypes, for the class token of each global crop
    features_2BD: Tensor | None  # the teacher's class tokens, for the log's figures; None of a frozen teacher
    patches_MK: Tensor | None = None  # distributions for the masked patches, in the order of the mask
    patch_weights_M: Tensor | None = None  # each masked patch's weight in the loss


def temperature_schedule(loss: PrototypeLoss, phase: Phase) -> dict[str, Schedule]:
    constant = loss.teacher_temperature_start == loss.teacher_temperature  # then no length of the warm-up is too long
    warmup = 0 if constant else phase.steps(loss.teacher_temperature_warmup, "loss.teacher_temperature_warmup")
    return {"teacher_temperature": partial(_temperature, loss, warmup)}


def _temperature(loss: PrototypeLoss, warmup: int, step: int) -> float:
    return ramp(loss.teacher_temperature_start, loss.teacher_temperature, step, warmup)


def frozen_prototypes(loss: PrototypeLoss, phase: Phase) -> dict[str, Freeze]:
    return {"prototypes": Freeze(phase.steps(loss.freeze_prototypes, "loss.freeze_prototypes"), loss.freeze_by)}


def continue_schedules(loss: PrototypeLoss) -> None:
    """In a later phase the teacher temperature stays where it ended, and no prototypes are held fixed."""
    loss.teacher_temperature_start = loss.teacher_temperature
    loss.freeze_prototypes = "0 steps"


def prototype_targets(logits: Tensor, centre: Tensor, loss: PrototypeLoss, s: StepValues) -> Tensor:
    """Distributions (..., K) from the teacher's logits (..., K) of the whole step.

    With centring, the centre (K,) is updated in place; without, it stays at zero.
    """
    if loss.targets == "sinkhorn":
        flat = sinkhorn_knopp(logits.flatten(0, -2), s["teacher_temperature"], loss.sinkhorn_iterations)
        return flat.view(logits.shape)
    targets = centred_softmax(logits, centre, s["teacher_temperature"])
    move_centre(centre, logits, loss)
    return targets


def move_centre(centre: Tensor, logits: Tensor, loss: PrototypeLoss) -> None:
    """Update the centre (K,), in place, by the teacher's logits (..., K); only with centring."""
    if loss.targets == "centring":
        centre.copy_(update_centre(centre, logits, loss.centre_momentum))


def multi_crop_loss(compared_VD: tuple[Tensor, Tensor], targets_2BK: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy over all pairs of a teacher's global crop and another crop of the student. DINO, equation 3.

    A global crop is compared with the other one's target, a local crop with the sum of both, in one call.

    Args:
        compared_VD: the two factors of the student's logits: of all crops (V B, D), and of the prototypes (K, D).
    """
    x_VD, device = compared_VD[0], targets_2BK.device
    b = targets_2BK.shape[1]
    crops = len(x_VD) // b
    compared_with = torch.cat([targets_2BK.flip(0).flatten(0, 1), targets_2BK.sum(0)])
    rows = torch.cat([torch.arange(2 * b, device=device), torch.arange(2 * b, 3 * b, device=device).repeat(crops - 2)])
    pairs = 2 + 2 * (crops - 2)
    weights = torch.full((len(x_VD),), 1 / (b * pairs), dtype=compared_with.dtype, device=device)
    return prototype_cross_entropy(*compared_VD, compared_with, weights, temperature, rows)


def mean_over_pairs(outputs_VBK: Tensor, compare: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The mean over the same pairs of `compare(the student's output (B, K), the number of the teacher's global crop)`."""
    pairs = [(v, i) for i in range(2) for v in range(len(outputs_VBK)) if v != i]
    return torch.stack([compare(outputs_VBK[v], i) for v, i in pairs]).mean()


PANELS = (
    Panel(HEALTH, "teacher: entropy, and KL from student", {"teacher_entropy": "entropy", "kl": "KL"}, zero=True),
    Panel(HEALTH, "effective rank of the features", {"effective_rank": "rank"}, zero=True),
    Panel(HEALTH, "prototypes used", {"prototypes_used": "prototypes"}, zero=True, percent=True),
    Panel(HEALTH, "norm of the centre", {"centre_norm": "norm"}, zero=True),
)
TEMPERATURE_PANEL = Panel(SCHEDULES, "teacher temperature", {"teacher_temperature": "temperature"})
ALARMS = (
    Alarm(
        "flat",
        # the cross-entropy with the targets, of which a run need not have any
        lambda line: "kl" in line and line["kl"] + line["teacher_entropy"] > 0.98 * line["log_k"],
        "the loss stays at log K: the student predicts nothing about the teacher's targets. Remedy: model.init=scaled, a lower "
        "ema.start (0.9 or less for runs of a few thousand steps), a lower loss.teacher_temperature, head.batch_norm=true; "
        "see docs/small-runs.md",
    ),
    Alarm(
        "collapse",
        lambda line: "log_k" in line and line["marginal_entropy"] < 0.05 * line["log_k"],
        "all images go to one prototype. Remedy: loss.targets=sinkhorn, or a lower loss.centre_momentum, "
        "a higher loss.teacher_temperature, a longer loss.freeze_prototypes",
    ),
    Alarm(
        "rank one",
        lambda line: line.get("effective_rank", math.inf) < 1.5,
        "the features differ along one direction at most. Remedy: a lower optim.lr, a longer optim.warmup, "
        "the KoLeo regulariser (loss.koleo=0.1 where the method has it), head.batch_norm=true",
    ),
)
