"""DINOv2 (arXiv 2304.07193, section 4): DINO on the class token, iBOT on masked patches with a head of its own, KoLeo.

Shapes: B images, N patches of a crop, D width of a feature, K prototypes, M masked patches.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dinolab.data.masks import Masks
from dinolab.data.types import Needs, Views
from dinolab.errors import UserError
from dinolab.fields import option, section
from dinolab.losses import koleo, prototype_cross_entropy
from dinolab.methods import dino, momentum, prototypes
from dinolab.methods.base import Alarm, Logs, StepValues, join, own_options
from dinolab.methods.momentum import Ema
from dinolab.methods.prototypes import PrototypeLoss, Targets, prototype_targets
from dinolab.models.encoder import Features
from dinolab.models.heads import DINOHead
from dinolab.options import Config, Head
from dinolab.panels import LOSS, Panel

INFINITE = 25  # KoLeo of two crops; each is at most 15 to 18 for features that differ


@dataclass
class Weighted(PrototypeLoss):
    dino: float = option(1.0, "weight of the class token's loss", 0, 100)
    koleo: float = option(0.1, "weight of the KoLeo regulariser", 0, 100)
    ibot: float = option(1.0, "weight of the masked-patch loss", 0, 100)


@dataclass
class Loss(Weighted, dino.Loss):
    pass


@dataclass
class PatchHead(Head):
    separate: bool = option(
        True,
        "a head of its own for the patches; false: they share the head of the class token, and the other options of "
        "ibot_head change nothing",
    )


@dataclass
class Options:
    masks: Masks = section(Masks, "masks of the masked-patch loss (iBOT)")
    head: Head = section(Head, "projection head and prototypes of the class token")
    ibot_head: PatchHead = section(PatchHead, "projection head and prototypes of the patches")
    loss: Loss = section(Loss, "targets, temperatures, prototypes, KoLeo, iBOT")
    ema: Ema = section(Ema, "momentum of the teacher")


class DINOv2(dino.DINO):
    """With loss.ibot=0 there are no masks and no second head: DINO with KoLeo."""

    TITLE = "DINOv2"
    Options: ClassVar[type] = Options
    PANELS = (
        Panel(
            LOSS,
            "loss",
            {"loss": "sum", "dino": "DINO", "ibot": "iBOT", "koleo": "KoLeo"},
            level="log_k",
            level_label="log K",
        ),
        *prototypes.PANELS,
        momentum.PANEL,
        prototypes.TEMPERATURE_PANEL,
    )
    ALARMS: ClassVar[tuple[Alarm, ...]] = (
        *prototypes.ALARMS,
        Alarm(
            "KoLeo is infinite",
            lambda line: not line.get("koleo", 0.0) <= INFINITE,  # also where it is no number
            "features lie on top of each other. Remedy: remove duplicate images, a larger optim.batch_size, a lower optim.lr, "
            "or loss.koleo=0",
        ),
    )

    patch_centre: Tensor  # (K,), running mean of the patches' logits

    def __init__(self, backbone: nn.Module, cfg: Config):
        super().__init__(backbone, cfg)
        options: Any = own_options(cfg, self.Options)
        of_patches = options.ibot_head if separate(options) else options.head
        self.register_buffer("patch_centre", torch.zeros(of_patches.prototypes))

    @staticmethod
    def make_heads(dim: int, options: Any) -> dict[str, nn.Module]:
        heads: dict[str, nn.Module] = {"head": DINOHead(dim, options.head)}
        own = options.loss.ibot and separate(options)
        return heads | ({"ibot_head": DINOHead(dim, options.ibot_head)} if own else {})

    @classmethod
    def check(cls, cfg: Config) -> None:
        super().check(cfg)
        options: Any = own_options(cfg, cls.Options)
        cls.check_patches(cfg, options)
        micro = cfg.run.micro_batch or cfg.optim.batch_size
        if options.loss.koleo and micro == 1:
            name = "run.micro_batch" if cfg.run.micro_batch else "optim.batch_size"
            raise UserError(f"{name}=1: KoLeo looks for neighbours within it; make it 2 or more, or set loss.koleo=0")

    @classmethod
    def check_patches(cls, cfg: Config, options: Any) -> None:
        """Raises UserError where masks could mask no patch."""
        masks = options.masks
        if masks.ratio[0] > masks.ratio[1]:
            raise UserError(f"masks.ratio={masks.ratio}: the first number must not be larger than the second")
        if not options.loss.ibot:
            return
        if cfg.model.convolutional:
            raise UserError(
                f"model.size={cfg.model.size} has no mask token: set loss.ibot=0, or train a vision transformer"
            )
        patches = (cfg.views.global_size // cfg.model.patch_size) ** 2
        if round(masks.share * 2 * cfg.optim.batch_size) == 0 or round(masks.ratio[0] * patches) == 0:
            raise UserError(
                "masks.share or masks.ratio masks no patch; raise them, or set loss.ibot=0 to train without masks"
            )

    @classmethod
    def needs(cls, cfg: Config) -> Needs:
        options = own_options(cfg, Options)
        grid = cfg.views.global_size // cfg.model.patch_size
        return Needs(masks=options.masks, grid=grid) if options.loss.ibot else Needs()

    @torch.no_grad()
    def targets(self, batches: list[Views], s: StepValues) -> list[Targets]:
        features = [self.teacher_features(views) for views in batches]
        targets = self.class_targets(self.teacher["head"], features, s)
        if self.loss_options.ibot:
            masked = [masked_patches(f, views) for f, views in zip(features, batches)]  # each (M_m, D)
            logits_MK = patch_head(self.teacher)(join(masked, 0))
            patches_MK = prototype_targets(logits_MK, self.patch_centre, self.loss_options, s)
            for target, p_MK, views in zip(targets, patches_MK.split([len(x) for x in masked]), batches):
                target.patches_MK, target.patch_weights_M = p_MK, patch_weights(views)
        return targets

    def loss(self, views: Views, targets: Targets, s: StepValues) -> tuple[Tensor, Logs]:
        features, cls_VD = self.student_features(views)
        class_loss = self.class_loss(cls_VD, targets)
        first, second = features.cls.chunk(2)
        spread = koleo(first) + koleo(second)  # each global crop by itself: its pair must not count as its neighbour

        loss = self.loss_options.dino * class_loss + self.loss_options.koleo * spread
        logs = {"dino": class_loss.detach(), "koleo": spread.detach()}
        if self.loss_options.ibot:
            patch_loss = self.patch_loss(self.compared_patches(features, views), targets)
            loss = loss + self.loss_options.ibot * patch_loss
            logs["ibot"] = patch_loss.detach()
        return loss, {"loss": loss.detach(), **logs}

    def compared_patches(self, features: Features, views: Views) -> Tensor:
        """The student's patches whose targets there are, (M, D)."""
        return masked_patches(features, views)

    def patch_loss(self, patches_MD: Tensor, targets: Targets) -> Tensor:
        """iBOT: cross-entropy of the student's masked patches with targets that the teacher computes from the same patches, unmasked."""
        assert targets.patches_MK is not None and targets.patch_weights_M is not None
        compared = patch_head(self.student).compare(patches_MD)
        temperature = self.loss_options.student_temperature
        return prototype_cross_entropy(*compared, targets.patches_MK, targets.patch_weights_M, temperature)


def separate(options: Any) -> bool:
    """Whether the patches have a head of their own; the heads of distillation are never shared."""
    return getattr(options.ibot_head, "separate", True)


def patch_head(networks: nn.ModuleDict) -> DINOHead:
    """The head of the patches: their own, or that of the class token."""
    return cast(DINOHead, networks["ibot_head" if "ibot_head" in networks else "head"])


def masked_patches(features: Features, views: Views) -> Tensor:
    """The patch tokens under the mask: (M, D)."""
    assert views.masked is not None, "the loader makes masks where `needs` asks for them"
    return features.patches.flatten(0, 2).index_select(0, views.masked)


def patch_weights(views: Views) -> Tensor:
    """Weights (M,) that make the loss, averaged over micro-batches, the mean over the step's global crops of each
    crop's mean over its masked patches; a crop without a mask counts as 0 (iBOT, arXiv 2111.07832, equation 2)."""
    m = views.masks
    assert m is not None and views.masked is not None
    each_2BN = (1 / (m.sum(-1, keepdim=True) * m.shape[0] * m.shape[1])).expand_as(m)
    return each_2BN.flatten().index_select(0, views.masked)
