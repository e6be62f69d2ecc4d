"""Distillation (DINOv2, arXiv 2304.07193, section 5): a student learns what a frozen encoder says of the same images.

Shapes: B images, S side of a global crop, D width of the frozen encoder, K prototypes, n features that prototypes are made
from; m runs over the micro-batches of a step.
"""

from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.losses import CHUNK, at_least_fp32, prototype_cross_entropy
from dinolab.methods.base import Schedule, Targets, join
from dinolab.methods.dinov2 import DINOv2
from dinolab.models.encoder import Encoder, Features
from dinolab.models.heads import DINOHead
from dinolab.options import Config
from dinolab.weights.load import load

PER_PROTOTYPE = 16  # features that a prototype is made from, on average
ROUNDS = 10  # of k-means
AT_ONCE = 32  # images in a forward, so that this takes no more memory than a step


class Prototypes(nn.Module):
    """The head that an encoder does not come with: cosines of its features, less their mean, with K directions of its own.

    SEED (arXiv 2101.04731) takes a queue of features for directions; here they are clusters of features, and stay.
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


class Distillation(DINOv2):
    """DINOv2's losses with the targets of a frozen encoder; nothing is masked, and all patches of the global crops count.

    `frozen` is what papers call the teacher: whatever `dinolab.load` opens. `teacher` is the EMA of the student, as in every
    method here, and the run's product. The frozen encoder is neither among the parameters nor in the checkpoint; what `prepare`
    makes of it is. With loss.ibot=0 class tokens alone are compared, and the encoder needs no patches.
    """

    PREPARES = "before the first step it clusters the teacher's features, which no time here includes"

    def __init__(self, backbone: nn.Module, dim: int, cfg: Config):
        super().__init__(backbone, dim, cfg)
        if not cfg.teacher:
            raise UserError(
                "teacher is not set: name an encoder to learn from, teacher=RUN, a file, hf:NAME or timm:NAME"
            )
        self._frozen = (load(cfg.teacher),)  # in a tuple: nn.Module would make a module its own
        self.patch_size, self.seed = cast(int, backbone.patch_size), cfg.seed

        size = cfg.views.global_size
        blank = self.look(torch.zeros(2, 1, 3, size, size, dtype=torch.uint8))
        self.cls_head = Prototypes(blank.cls.shape[-1], cfg.head.prototypes)
        if cfg.loss.ibot:
            h, w, width = blank.patches.shape[1:]
            if h != self.grid(size) or w != self.grid(size):
                raise UserError(
                    f"teacher={cfg.teacher} has {h} x {w} patches where the student has {self.grid(size)} x {self.grid(size)}; "
                    "set loss.ibot=0 to learn from its class token alone"
                )
            self.patch_head = Prototypes(width, cfg.ibot_head.prototypes)

    @property
    def frozen(self) -> Encoder:
        return self._frozen[0]

    def _apply(self, fn: Callable, recurse: bool = True) -> "Distillation":
        """What `to`, `double` and the like do to a module; the frozen encoder goes along."""
        self.frozen._apply(fn)
        return cast("Distillation", super()._apply(fn, recurse))

    def grid(self, size: int) -> int:
        """The student's patches along a side of `size` pixels (a convolution begins one for the rest)."""
        return -(-size // self.patch_size)

    @torch.no_grad()
    def look(self, globals_: Tensor) -> Features:
        """What the frozen encoder says of global crops (2, B, 3, S, S); with loss.ibot, its patches lie on the student's grid.

        Where its patches are of another size, the crops are resized to as many of them as the student has, or to a
        multiple as many, which is then averaged: patches of 14 beside the student's 16 see 224 pixels as 196, those of 8
        as 224, four to one of the student's.
        """
        images = globals_.flatten(0, 1)
        if not self.cfg.ibot:
            return self.frozen(images)
        theirs = self.frozen.patch_size
        each = max(1, round(self.patch_size / theirs))
        side = self.grid(images.shape[-1]) * each * theirs
        if side != images.shape[-1]:
            images = F.interpolate(images.float() / 255, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        features = self.frozen(images)
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
        each = -(-len(self.patch_head.directions) // k) if self.cfg.ibot else 0
        cls: list[Tensor] = []
        patches: list[Tensor] = []
        for step in batches:
            globals_ = torch.cat([part.to(device).globals for part in step], 1)
            places = torch.randint(self.grid(globals_.shape[-1]) ** 2, (2, globals_.shape[1], each, 1), generator=draw)
            for crops, chosen in zip(globals_.split(AT_ONCE, 1), places.to(device).split(AT_ONCE, 1)):
                seen = self.look(crops)
                cls.append(seen.cls.unflatten(0, (2, -1)))
                if self.cfg.ibot:
                    tokens = seen.patches.flatten(1, 2).take_along_dim(chosen.flatten(0, 1), 1)
                    patches.append(tokens.unflatten(0, (2, -1)))
            if 2 * sum(x.shape[1] for x in cls) >= PER_PROTOTYPE * k:
                break
        with torch.autocast(device.type, enabled=False):
            self.cls_head.fit(torch.cat(cls, 1).flatten(0, 1), draw, "head.prototypes")
            if self.cfg.ibot:
                self.patch_head.fit(torch.cat(patches, 1).flatten(0, 2), draw, "ibot_head.prototypes")

    @torch.no_grad()
    def targets(self, batches: list[Views], s: Schedule) -> list[Targets]:
        features = [self.look(views.globals) for views in batches]
        cls = [f.cls.unflatten(0, (2, -1)) for f in features]  # each (2, B_m, D)
        cls_2BK = self.normalise_targets(self.cls_head(join(cls, 1)), self.centre, s)
        targets = [Targets(p, None) for p in cls_2BK.split([x.shape[1] for x in cls], dim=1)]
        if self.cfg.ibot:
            patches = [f.patches.flatten(0, 2) for f in features]  # each (M_m, D), of all global crops
            patches_MK = self.normalise_targets(self.patch_head(join(patches, 0)), self.patch_centre, s)
            for target, p_MK in zip(targets, patches_MK.split([len(x) for x in patches])):
                target.patches_MK, target.patch_weights_M = p_MK, p_MK.new_full((len(p_MK),), 1 / len(p_MK))
        return targets

    def ibot(self, features: Features, views: Views, targets: Targets) -> Tensor:
        """Cross-entropy of the global crops' patches with what the frozen encoder says of them, the mean over all."""
        assert targets.patches_MK is not None and targets.patch_weights_M is not None
        compared = cast(DINOHead, self.student["ibot_head"]).compare(features.patches.flatten(0, 2))
        weights, temperature = targets.patch_weights_M, self.cfg.student_temperature
        return prototype_cross_entropy(*compared, targets.patches_MK, weights, temperature)
