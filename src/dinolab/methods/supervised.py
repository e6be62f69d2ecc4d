"""Training on labels: cross-entropy of a linear classifier on the class token, as DeiT (arXiv 2012.12877) trains a ViT.

Of DeiT's augmentation, random crops, flips, RandAugment and random erasing are options `views.`; label smoothing, mixup and CutMix are
those of this method. The two global crops of an image, and its local ones where there are any, take the place of repeated augmentation.
Shapes: B images, V crops of an image, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from dinolab.data.types import Needs, Source, Views
from dinolab.errors import UserError
from dinolab.fields import option, section
from dinolab.losses import at_least_fp32
from dinolab.methods.base import Alarm, Logs, Method, StepValues, own_options
from dinolab.options import Config
from dinolab.panels import LOSS, Panel

MEASURED = 1000  # classes where a step is only measured, without images


@dataclass
class Loss:
    smoothing: float = option(0.1, "label smoothing: share of a target that is spread over all classes", 0, 1)
    mixup: float = option(0.8, "mixup (arXiv 1710.09412) with shares from Beta(mixup, mixup); 0: none", 0, 100)
    cutmix: float = option(
        1.0, "CutMix (arXiv 1905.04899) with shares from Beta(cutmix, cutmix), in every second step; 0: none", 0, 100
    )


@dataclass
class Options:
    loss: Loss = section(Loss, "label smoothing, mixup, CutMix")


class Mix(NamedTuple):
    """How each image of a micro-batch is mixed with the one at its place from the end."""

    share: float  # weight of the image itself; the other one has the rest
    # the box that CutMix pastes from the other image, as shares of the crop's sides: top, left, height, width; None for mixup
    box: tuple[float, float, float, float] | None


class Supervised(Method):
    TITLE = "supervised"
    Options: ClassVar[type] = Options
    PANELS = (
        Panel(LOSS, "loss", {"loss": "cross-entropy"}, level="log_classes", level_label="log of the classes"),
        Panel(LOSS, "training accuracy of the crops", {"accuracy": "accuracy"}, zero=True, percent=True),
    )
    ALARMS = (
        Alarm(
            "flat",
            lambda line: line.get("loss", 0.0) > 0.99 * line.get("log_classes", float("inf")),
            "the loss stays at the log of the number of classes: nothing about the labels is learned. Remedy: a lower optim.lr, a "
            "longer optim.warmup, model.init=scaled, loss.mixup=0 and loss.cutmix=0",
        ),
    )

    def __init__(self, backbone: nn.Module, cfg: Config, classes: int = MEASURED):
        super().__init__({"backbone": backbone, "classifier": nn.Linear(cast(int, backbone.dim), classes)})
        classifier = cast(nn.Linear, self.student["classifier"])
        nn.init.trunc_normal_(classifier.weight, std=0.02)
        nn.init.zeros_(classifier.bias)
        self.loss_options, self.classes, self.seed = own_options(cfg, Options).loss, classes, cfg.seed

    @classmethod
    def make(cls, backbone: nn.Module, cfg: Config, source: Source | None) -> "Supervised":
        if source is None:
            return cls(backbone, cfg)
        if source.labels is None:
            raise UserError(f"{source.name} has no labels, and method={cfg.method} needs them: {source.unlabelled}")
        if len(source.classes) < 2:
            raise UserError(f"{source.name} has a single class, {source.classes[0]!r}: nothing can be learned from it")
        return cls(backbone, cfg, len(source.classes))

    @classmethod
    def needs(cls, cfg: Config) -> Needs:
        return Needs(labels=True)

    def loss(self, views: Views, targets: None, s: StepValues) -> tuple[Tensor, Logs]:
        assert views.labels is not None, "the loader gives labels where `needs` asks for them"
        target_BC = smoothed(views.labels, self.classes, self.loss_options.smoothing)
        mix = draw_mix(self.loss_options, [self.seed, *views.indices.tolist()])
        if mix:
            views = views._replace(
                global_crops=mixed(views.global_crops, mix), local_crops=mixed(views.local_crops, mix)
            )
            target_BC = mix.share * target_BC + (1 - mix.share) * target_BC.flip(0)
        _, cls_VD = self.student_features(views)
        logits_VBC = at_least_fp32(self.student["classifier"](cls_VD)).unflatten(0, (-1, len(target_BC)))
        loss = -(target_BC * logits_VBC.log_softmax(-1)).sum(-1).mean()
        right = (logits_VBC.argmax(-1) == target_BC.argmax(-1)).to(loss.dtype).mean()
        return loss, {"loss": loss.detach(), "accuracy": right}

    def figures(self, targets: list[Any], parts: Mapping[str, float]) -> dict[str, float]:
        return {"log_classes": float(np.log(self.classes))}


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Labels (B,) as distributions (B, C), of which a share is spread evenly over all classes (arXiv 1512.00567, section 7)."""
    even = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    return even.scatter_(1, labels[:, None], 1 - smoothing + smoothing / classes)  # one_hot would wait for the device


def draw_mix(loss: Loss, seed: list[int]) -> Mix | None:
    """Mixup or CutMix for a micro-batch, each in every second one where both are wanted; None without either."""
    if not loss.mixup and not loss.cutmix:
        return None
    rng = np.random.default_rng(
        seed
    )  # a function of the images that are mixed: it needs no state that would have to resume
    cut = bool(loss.cutmix) and (not loss.mixup or rng.random() < 0.5)
    spread = loss.cutmix if cut else loss.mixup
    share = float(rng.beta(spread, spread))
    if not cut:
        return Mix(share, None)
    side = (1 - share) ** 0.5
    top, left = rng.random(2) - side / 2  # the centre may lie anywhere, so that a part of the box may lie outside
    bottom, right = min(1.0, top + side), min(1.0, left + side)
    top, left = max(0.0, top), max(0.0, left)
    return Mix(1 - (bottom - top) * (right - left), (top, left, bottom - top, right - left))


def mixed(crops: Tensor, mix: Mix) -> Tensor:
    """uint8 crops (V, B, C, S, S), each mixed with that of another image of the micro-batch."""
    others = crops.flip(1)
    if mix.box is None:
        return torch.lerp(others.float(), crops.float(), mix.share).round().to(torch.uint8)
    height, width = crops.shape[-2:]
    top, left, tall, wide = mix.box
    rows = slice(round(top * height), round((top + tall) * height))
    columns = slice(round(left * width), round((left + wide) * width))
    pasted = crops.clone()
    pasted[..., rows, columns] = others[..., rows, columns]
    return pasted
