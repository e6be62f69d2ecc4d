"""Distillation: a student learns what a frozen encoder says of the same images.

The targets are distributions over prototypes (DINOv2, arXiv 2304.07193, section 5), or the features themselves. The encoder sees the
student's global crops in every step, or each image as a whole, once.

Shapes: B images, G = 2 for crops and 1 for whole images, V = 2 + L crops of an image, S side of a global crop, n patches along it,
D width of the frozen encoder, K prototypes; m runs over the micro-batches of a step.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dinolab.data.types import Needs, Source, Views
from dinolab.errors import UserError
from dinolab.losses import koleo, prototype_cross_entropy
from dinolab.methods import dinov2
from dinolab.methods.base import Logs, StepValues, join, own_options
from dinolab.methods.directions import Centred, Prototypes, cosine, regression_head
from dinolab.methods.distill_options import Options
from dinolab.methods.frozen import OnCrops, Sees
from dinolab.methods.prototypes import Targets, prototype_targets
from dinolab.methods.whole import OnWholeImages
from dinolab.models.encoder import Encoder
from dinolab.models.heads import DINOHead
from dinolab.options import Config
from dinolab.panels import LOSS, Panel
from dinolab.parallel import rank
from dinolab.precision import choose_precision, name_of
from dinolab.progress import progress_bar
from dinolab.weights.load import load

PER_PROTOTYPE = 16  # features that a prototype is made from, on average
CENTRED_BY = 4096  # images whose features make the mean that is subtracted from all
PATCHES = 4  # of each of their crops
AT_ONCE = 32  # images in a forward, so that this takes no more memory than a step


@dataclass
class Taught(Targets):
    """The targets of one micro-batch. Those that the loss does not need are empty, or None."""

    features_GBD: Tensor | None = None  # the frozen encoder's class tokens, centred, of length one
    directions: Tensor | None = None  # its patches, likewise, (2 B, n, n, D)
    inside: Tensor | None = None  # bool (2 B, n, n), which of these count; None: all


class Distillation(dinov2.DINOv2):
    """DINOv2's losses with the targets of a frozen encoder, and regressions of its features.

    Nothing is masked, and all patches of the global crops count. `encoder` is the network that papers call the teacher: whatever
    `dinolab.load` opens. `teacher` is the EMA of the student, as in every method with a momentum teacher, and the run's product. The
    frozen encoder is neither among the parameters nor in the checkpoint; the means and prototypes that `prepare` makes from it are.
    """

    TITLE = "distillation"
    Options: ClassVar[type] = Options
    PREPARES = (
        "before the first step it computes and clusters the teacher's features, which this forecast does not include"
    )
    SERIES: ClassVar = {**dinov2.DINOv2.PANELS[0].series, "features": "class token", "patches": "patches"}
    PANELS = (Panel(LOSS, "loss", SERIES, level="log_k", level_label="log K"), *dinov2.DINOv2.PANELS[1:])

    def __init__(self, backbone: nn.Module, cfg: Config):
        super().__init__(backbone, cfg)
        options = own_options(cfg, Options)
        loss = options.loss
        if not options.teacher:
            raise UserError(
                "teacher is not set: name an encoder to learn from, teacher=RUN, a file, hf:NAME, timm:NAME or starter"
            )
        encoder = load(options.teacher)
        self._frozen = (encoder,)  # in a tuple: nn.Module would make a module its own
        self.cfg, patch_size, patches = cfg, cast(int, backbone.patch_size), options.wants_patches
        self.sees: Sees = (
            OnWholeImages(encoder, patch_size, options.teacher_size, options.whole, patches, cfg.seed)
            if options.teacher_views == "whole"
            else OnCrops(
                encoder, patch_size, cfg.views.global_size, options.teacher_size, patches, as_many=bool(loss.ibot)
            )
        )
        if patches and not self.sees.patch_dim:
            raise UserError(f"teacher={options.teacher} has no patches: set loss.ibot=0 and loss.patches=0")

        hidden, dims = options.regression.hidden, (cast(int, backbone.dim), self.sees.dim, self.sees.patch_dim)
        if loss.dino:
            self.cls_head = Prototypes(dims[1], options.head.prototypes)
        if loss.ibot:
            self.patch_head = Prototypes(dims[2], options.ibot_head.prototypes)
        if loss.features:
            self.cls_centred = Centred(dims[1])
            self.add_head("feature_head", regression_head(dims[0], hidden, dims[1]))
        if loss.patches:
            self.patches_centred = Centred(dims[2])
            self.add_head("patch_feature_head", regression_head(dims[0], hidden, dims[2]))

    @staticmethod
    def make_heads(dim: int, options: Any) -> dict[str, nn.Module]:
        heads = dinov2.DINOv2.make_heads(dim, options)
        return heads if options.loss.dino else {name: head for name, head in heads.items() if name != "head"}

    def add_head(self, name: str, head: nn.Module) -> None:
        """Give the student a further head, and the EMA of the student, which is of all its networks, a copy."""
        self.student[name] = head
        self.teacher[name] = copy.deepcopy(head).requires_grad_(False)

    @classmethod
    def check(cls, cfg: Config) -> None:
        own_options(cfg, Options).check()
        super().check(cfg)

    @classmethod
    def check_patches(cls, cfg: Config, options: Any) -> None:
        if cfg.model.drop_path:
            raise UserError(
                f"model.drop_path={cfg.model.drop_path:g}: method={cfg.method} has no stochastic depth; set it to 0"
            )

    @classmethod
    def needs(cls, cfg: Config) -> Needs:
        options = own_options(cfg, Options)
        whole = options.teacher_views == "whole"
        return OnWholeImages.needs(options.teacher_size, options.whole, options.wants_patches) if whole else Needs()

    @property
    def encoder(self) -> Encoder:
        return self._frozen[0]

    def _apply(self, fn: Callable, recurse: bool = True) -> "Distillation":
        """Make `to`, `double` and the like change the frozen encoder too."""
        cast(nn.Module, self.encoder)._apply(fn)
        return cast("Distillation", super()._apply(fn, recurse))

    def see_images(self, source: Source, workers: int) -> None:
        device = self.centre.device
        self.sees.open(source, device, workers, name_of(choose_precision(self.cfg.run.precision, device)))

    @torch.no_grad()
    def prepare(self, batches: Iterable[list[Views]]) -> None:
        """Make means and prototypes, once, before the first step of a new run, from as many of its steps' batches as they need.

        Each view of the frozen encoder gives its class token and as many of its patches, drawn at random, as make enough of both. The
        same batches give the same prototypes, in whatever micro-batches, but for rounding, and kept features the same as those that
        are computed here. Raises UserError if the features are too few.
        """
        loss, draw = self.loss_options, torch.Generator().manual_seed(self.cfg.seed)
        heads = own_options(self.cfg, Options)
        k = heads.head.prototypes if loss.dino or loss.ibot else 0
        each = max(-(-heads.ibot_head.prototypes // k) if loss.ibot else 0, PATCHES if loss.patches else 0)
        most = max(-(-PER_PROTOTYPE * k // self.sees.views), CENTRED_BY if loss.features or loss.patches else 0)
        cls, patches = self.look_at_first(batches, most, each, draw)
        with torch.autocast(self.centre.device.type, enabled=False):
            if loss.dino:
                self.cls_head.fit(cls, draw, "head.prototypes")
            if loss.ibot:
                self.patch_head.fit(patches, draw, "ibot_head.prototypes")
            if loss.features:
                self.cls_centred.centre(cls)
            if loss.patches:
                self.patches_centred.centre(patches)

    def look_at_first(
        self, batches: Iterable[list[Views]], most: int, each: int, draw: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Class tokens and `each` patches of every view, which `draw` chooses, (n, D), of the run's first `most` images or more."""
        device = self.centre.device
        cls: list[Tensor] = []
        patches: list[Tensor] = []
        with progress_bar("targets from the teacher's features", most, rank() == 0, "images") as advance:
            for step in self.sees.inputs(batches, most, device):
                views, images = step.shape[:2]
                chosen = torch.randint(max(1, self.sees.patches_each), (views, images, each, 1), generator=draw).to(
                    device
                )
                for some, places in zip(step.split(AT_ONCE, 1), chosen.split(AT_ONCE, 1)):
                    cls_GBD, patches_GBND = self.sees.look(some)
                    cls.append(cls_GBD)
                    patches.append(patches_GBND.take_along_dim(places, 2) if each else patches_GBND[:, :, :0])
                    advance(some.shape[1])
        return torch.cat(cls, 1).flatten(0, 1), torch.cat(patches, 1).flatten(0, 2)

    @torch.no_grad()
    def after_step(self, s: StepValues) -> None:
        """The EMA, which sees no images here, also takes over the student's statistics of batch norm."""
        super().after_step(s)
        if theirs := list(self.teacher["backbone"].buffers()):
            torch._foreach_copy_(theirs, list(self.student["backbone"].buffers()))

    @torch.no_grad()
    def targets(self, batches: list[Views], s: StepValues) -> list[Targets]:
        loss = self.loss_options
        seen = [self.sees.seen(views) for views in batches]
        targets = [Taught(torch.empty(0), None, inside=x.inside) for x in seen]
        if loss.dino:
            logits = self.cls_head(join([x.cls for x in seen], 1))
            cls_GBK = prototype_targets(logits, self.centre, loss, s)
            for target, p in zip(targets, cls_GBK.split([x.cls.shape[1] for x in seen], dim=1)):
                target.cls_2BK = p
        if loss.ibot:
            patches = [x.patches.flatten(0, 2) for x in seen]  # each (M_m, D), of all global crops
            patches_MK = prototype_targets(self.patch_head(join(patches, 0)), self.patch_centre, loss, s)
            for target, p_MK in zip(targets, patches_MK.split([len(x) for x in patches])):
                even = p_MK.new_full((len(p_MK),), 1 / len(p_MK))
                target.patches_MK = p_MK
                target.patch_weights_M = even if target.inside is None else even * target.inside.flatten()
        for target, x in zip(targets, seen):
            target.features_GBD = self.cls_centred.directed(x.cls) if loss.features else None
            target.directions = self.patches_centred.directed(x.patches) if loss.patches else None
        return cast("list[Targets]", targets)

    def loss(self, views: Views, targets: Targets, s: StepValues) -> tuple[Tensor, Logs]:
        assert isinstance(targets, Taught)
        weights = self.loss_options
        features, cls_VD = self.student_features(views)
        first, second = features.cls.chunk(2)
        parts: dict[str, Tensor] = {}
        if weights.dino:
            parts["dino"] = self.class_loss(cls_VD, targets)
        parts["koleo"] = koleo(first) + koleo(second)  # of each global crop by itself, as DINOv2's
        if weights.ibot:
            parts["ibot"] = self.patch_loss(features.patches.flatten(0, 2), targets)
        if targets.features_GBD is not None:
            parts["features"] = self.feature_loss(cls_VD, targets.features_GBD)
        if targets.directions is not None:
            off = 1 - cosine(self.student["patch_feature_head"](features.patches), targets.directions)
            parts["patches"] = (off if targets.inside is None else off * targets.inside).mean()
        loss = cast(Tensor, sum(getattr(weights, name) * part for name, part in parts.items()))
        return loss, {name: part.detach() for name, part in {"loss": loss, **parts}.items()}

    def class_loss(self, cls_VD: Tensor, targets: Targets) -> Tensor:
        """Of crops, DINO's loss. Of whole images, the mean cross-entropy of all crops with the image's one target."""
        views, b = targets.cls_2BK.shape[:2]
        if views == 2:
            return super().class_loss(cls_VD, targets)
        rows = torch.arange(b, device=cls_VD.device).repeat(len(cls_VD) // b)
        weights = torch.full((len(cls_VD),), 1 / len(cls_VD), dtype=targets.cls_2BK.dtype, device=cls_VD.device)
        compared = cast(DINOHead, self.student["head"]).compare(cls_VD)
        return prototype_cross_entropy(
            *compared, targets.cls_2BK[0], weights, self.loss_options.student_temperature, rows
        )

    def feature_loss(self, cls_VD: Tensor, targets_GBD: Tensor) -> Tensor:
        """1 - cosine, mean over all crops. A global crop has its own target, a local one the mean over those of both global crops."""
        b = targets_GBD.shape[1]
        of_globals = targets_GBD.expand(2, -1, -1)
        of_locals = targets_GBD.mean(0).expand(len(cls_VD) // b - 2, -1, -1)
        predicted = self.student["feature_head"](cls_VD).unflatten(0, (-1, b))
        return 1 - cosine(predicted, torch.cat([of_globals, of_locals])).mean()

    def figures(self, targets: list[Targets], parts: Mapping[str, float]) -> dict[str, float]:
        return super().figures(targets, parts) if self.loss_options.dino else {}
