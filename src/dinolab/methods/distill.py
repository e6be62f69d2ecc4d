"""Distillation (DINOv2, arXiv 2304.07193, section 5): a student learns the targets that a frozen encoder gives for the same images.

Shapes: B images, S side of a global crop, D width of the frozen encoder, K prototypes, n features that prototypes are made
from; m runs over the micro-batches of a step.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.data.types import Needs, Views
from dinolab.errors import UserError
from dinolab.fields import option, section
from dinolab.losses import CHUNK, at_least_fp32
from dinolab.methods import dinov2
from dinolab.methods.base import StepValues, join, own_options
from dinolab.methods.momentum import Ema
from dinolab.methods.prototypes import Targets, prototype_targets
from dinolab.models.encoder import Encoder, Features
from dinolab.options import Config, Head
from dinolab.weights.load import load

PER_PROTOTYPE = 16  # features that a prototype is made from, on average
ROUNDS = 10  # of k-means
AT_ONCE = 32  # images in a forward, so that this takes no more memory than a step


@dataclass
class Options:
    teacher: str = option(
        "", "frozen encoder to learn from: a run's folder, an official .pth file, hf:NAME, timm:NAME or starter"
    )
    head: Head = section(Head, "projection head and prototypes of the class token")
    ibot_head: Head = section(Head, "projection head and prototypes of the patches")
    loss: dinov2.Loss = section(dinov2.Loss, "targets, temperatures, KoLeo, weight of the patches' loss")
    ema: Ema = section(Ema, "momentum of the student's average, which is the run's product")


class Prototypes(nn.Module):
    """A head for an encoder that has none: cosines of its centred features with K directions.

    SEED (arXiv 2101.04731) takes a queue of features as directions; here they are centres of clusters, and stay fixed.
    """

    mean: Tensor  # (D,)
    directions: Tensor  # (K, D), of length one

    def __init__(self, dim: int, k: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("directions", torch.zeros(k, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., D) -> logits (..., K), in [-1, 1]."""
        return F.linear(self.directed(x), self.directions)

    def directed(self, x: Tensor) -> Tensor:
        return F.normalize(at_least_fp32(x) - self.mean, dim=-1, eps=1e-6)

    def fit(self, x_nD: Tensor, draw: torch.Generator, option: str) -> None:
        """Spherical k-means (Dhillon and Modha, 2001), from K of the features that are drawn at random.

        Raises UserError, which names the option that sets K, with fewer than K features.
        """
        n, k = len(x_nD), len(self.directions)
        if n < k:
            raise UserError(f"{option}={k}, but the whole run has only {n} features to make them from; set it lower")
        self.mean.copy_(at_least_fp32(x_nD).mean(0))
        x = self.directed(x_nD)
        found = x[torch.randperm(n, generator=draw)[:k].to(x.device)]
        numbers = torch.arange(k, device=x.device)[:, None]
        for _ in range(ROUNDS):
            sums = torch.zeros_like(found)
            for part in x.split(max(1, CHUNK // k)):
                members_Kn = (part @ found.T).argmax(1) == numbers
                sums += members_Kn.to(x.dtype) @ part  # index_add_ would on a GPU give each rank sums of its own
            empty = ~sums.any(1, keepdim=True)
            found = torch.where(empty, found, F.normalize(sums, dim=1))
        self.directions.copy_(found)


class Distillation(dinov2.DINOv2):
    """DINOv2's losses with the targets of a frozen encoder; nothing is masked, and all patches of the global crops count.

    `encoder` is the network that papers call the teacher: whatever `dinolab.load` opens. `teacher` is the EMA of the student, as in
    every method with a momentum teacher, and the run's product. The frozen encoder is neither among the parameters nor in the
    checkpoint; the prototypes that `prepare` makes from it are. With loss.ibot=0 only class tokens are compared, and the encoder
    needs no patches.
    """

    TITLE = "distillation"
    Options: ClassVar[type] = Options
    PREPARES = "before the first step it clusters the teacher's features, which this forecast does not include"

    def __init__(self, backbone: nn.Module, cfg: Config):
        super().__init__(backbone, cfg)
        options = own_options(cfg, Options)
        if not options.teacher:
            raise UserError(
                "teacher is not set: name an encoder to learn from, teacher=RUN, a file, hf:NAME or timm:NAME"
            )
        self._frozen = (load(options.teacher),)  # in a tuple: nn.Module would make a module its own
        self.patch_size, self.seed = cast(int, backbone.patch_size), cfg.seed

        size = cfg.views.global_size
        blank = self.frozen_features(torch.zeros(2, 1, self.encoder.pixels.channels, size, size, dtype=torch.uint8))
        self.cls_head = Prototypes(blank.cls.shape[-1], options.head.prototypes)
        if options.loss.ibot:
            h, w, width = blank.patches.shape[1:]
            if h != self.grid(size) or w != self.grid(size):
                raise UserError(
                    f"teacher={options.teacher} has {h} x {w} patches where the student has {self.grid(size)} x {self.grid(size)}; "
                    "set loss.ibot=0 to learn from its class token alone"
                )
            self.patch_head = Prototypes(width, options.ibot_head.prototypes)

    @classmethod
    def check_patches(cls, cfg: Config, options: Any) -> None:
        if cfg.model.convolutional:  # no image passes through the product in training
            raise UserError(
                f"model.size={cfg.model.size}: its batch norm has no statistics with method={cfg.method}; use a ViT"
            )
        if cfg.model.drop_path:
            raise UserError(
                f"model.drop_path={cfg.model.drop_path:g}: method={cfg.method} has no stochastic depth; set it to 0"
            )

    @classmethod
    def needs(cls, cfg: Config) -> Needs:
        return Needs()

    @property
    def encoder(self) -> Encoder:
        return self._frozen[0]

    def _apply(self, fn: Callable, recurse: bool = True) -> "Distillation":
        """Make `to`, `double` and the like change the frozen encoder too."""
        cast(nn.Module, self.encoder)._apply(fn)
        return cast("Distillation", super()._apply(fn, recurse))

    def grid(self, size: int) -> int:
        """The student's patches along a side of `size` pixels (a convolution begins one for the rest)."""
        return -(-size // self.patch_size)

    @torch.no_grad()
    def frozen_features(self, crops_2B: Tensor) -> Features:
        """The frozen encoder's features of global crops (2, B, C, S, S); with loss.ibot, its patches lie on the student's grid.

        Where its patches are of another size, the crops are resized to as many of them as the student has, or to a
        multiple as many, which is then averaged: patches of 14 beside the student's 16 see 224 pixels as 196, those of 8
        as 224, four to one of the student's.
        """
        images = crops_2B.flatten(0, 1)
        if not self.loss_options.ibot:
            return self.encoder(images)
        theirs = self.encoder.patch_size
        each = max(1, round(self.patch_size / theirs))
        side = self.grid(images.shape[-1]) * each * theirs
        if side != images.shape[-1]:
            images = F.interpolate(images.float() / 255, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        features = self.encoder(images)
        if each == 1:
            return features
        return features._replace(patches=F.avg_pool2d(features.patches.movedim(-1, 1), each).movedim(1, -1))

    @torch.no_grad()
    def prepare(self, batches: Iterable[list[Views]]) -> None:
        """Make the prototypes, once, before the first step of a new run, from as many of its steps' batches as they need.

        Each global crop gives its class token and as many of its patches, drawn at random, as make enough of both. The
        same batches give the same prototypes, in whatever micro-batches, but for rounding. Raises UserError if they are too few.
        """
        device, draw = self.cls_head.mean.device, torch.Generator().manual_seed(self.seed)
        k = len(self.cls_head.directions)
        each = -(-len(self.patch_head.directions) // k) if self.loss_options.ibot else 0
        cls: list[Tensor] = []
        patches: list[Tensor] = []
        for step in batches:
            crops_2B = torch.cat([part.to(device).global_crops for part in step], 1)
            places = torch.randint(self.grid(crops_2B.shape[-1]) ** 2, (2, crops_2B.shape[1], each, 1), generator=draw)
            for crops, chosen in zip(crops_2B.split(AT_ONCE, 1), places.to(device).split(AT_ONCE, 1)):
                seen = self.frozen_features(crops)
                cls.append(seen.cls.unflatten(0, (2, -1)))
                if self.loss_options.ibot:
                    tokens = seen.patches.flatten(1, 2).take_along_dim(chosen.flatten(0, 1), 1)
                    patches.append(tokens.unflatten(0, (2, -1)))
            if 2 * sum(x.shape[1] for x in cls) >= PER_PROTOTYPE * k:
                break
        with torch.autocast(device.type, enabled=False):
            self.cls_head.fit(torch.cat(cls, 1).flatten(0, 1), draw, "head.prototypes")
            if self.loss_options.ibot:
                self.patch_head.fit(torch.cat(patches, 1).flatten(0, 2), draw, "ibot_head.prototypes")

    @torch.no_grad()
    def targets(self, batches: list[Views], s: StepValues) -> list[Targets]:
        features = [self.frozen_features(views.global_crops) for views in batches]
        cls = [f.cls.unflatten(0, (2, -1)) for f in features]  # each (2, B_m, D)
        cls_2BK = prototype_targets(self.cls_head(join(cls, 1)), self.centre, self.loss_options, s)
        targets = [Targets(p, None) for p in cls_2BK.split([x.shape[1] for x in cls], dim=1)]
        if self.loss_options.ibot:
            patches = [f.patches.flatten(0, 2) for f in features]  # each (M_m, D), of all global crops
            patches_MK = prototype_targets(self.patch_head(join(patches, 0)), self.patch_centre, self.loss_options, s)
            for target, p_MK in zip(targets, patches_MK.split([len(x) for x in patches])):
                target.patches_MK, target.patch_weights_M = p_MK, p_MK.new_full((len(p_MK),), 1 / len(p_MK))
        return targets

    def compared_patches(self, features: Features, views: Views) -> Tensor:
        """All patches of the global crops."""
        return features.patches.flatten(0, 2)
