"""The parts that methods share which compare the two global crops of each image: options, figures, alarms, and losses of whole batches.

Batch norm takes the statistics of each of the two crops by itself, and over all ranks.

Shapes: B images, D width of a feature, K width of an embedding; m runs over the micro-batches of a step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.fields import option
from dinolab.losses_pairs import unit
from dinolab.methods.base import Alarm, Logs, Method, StepValues, own_options
from dinolab.methods.figures import feature_figures
from dinolab.models.encoder import normalise
from dinolab.models.heads import mlp
from dinolab.options import Config
from dinolab.panels import HEALTH, LOSS, Panel
from dinolab.parallel import gather_over_ranks


@dataclass
class Projector:
    hidden: int = option(2048, "width of the hidden layers", 1, 65536)
    out: int = option(256, "width of the embedding", 1, 65536)
    layers: int = option(2, "layers of the MLP", 1, 10)
    batch_norm: bool = option(True, "batch norm after each hidden layer")


def projector(dim: int, cfg: Projector) -> nn.Sequential:
    return mlp(dim, cfg.hidden, cfg.out, cfg.layers, cfg.batch_norm)


def check_pairs(cfg: Config) -> None:
    """Raises UserError for local crops, which nothing is compared with, and for batches of a single image."""
    if cfg.views.locals:
        raise UserError(
            f"views.locals={cfg.views.locals}: method={cfg.method} compares the two global crops alone; set views.locals=0"
        )
    for name, images in (("optim.batch_size", cfg.optim.batch_size), ("run.micro_batch", cfg.run.micro_batch)):
        if images == 1:
            raise UserError(f"{name}=1: method={cfg.method} compares images with each other; 2 is the smallest number")


def embed(networks: nn.ModuleDict, views: Views, crops: int = 2) -> tuple[Tensor, Tensor]:
    """Features (V, B, D) and embeddings (V, B, K) of the first V = `crops` global crops, by the networks "backbone" and "head"."""
    pixels = cast(Any, networks["backbone"]).pixels
    features = networks["backbone"]([normalise(x, pixels) for x in views.global_crops[:crops]])
    cls = [f.cls for f in features]
    return torch.stack(cls), torch.stack([networks["head"](x) for x in cls])


PANELS = (
    Panel(HEALTH, "spread of the embeddings", {"embedding_std": "deviation"}, zero=True),
    Panel(HEALTH, "effective rank of the features", {"effective_rank": "rank"}, zero=True),
)
ACCURACY = Panel(HEALTH, "crops that find their partner", {"accuracy": "share"}, zero=True, percent=True)
CONTRAST = Panel(LOSS, "loss", {"loss": "loss"}, level="chance", level_label="chance")
ALARMS = (
    Alarm(
        "collapse",
        lambda line: line.get("embedding_std", math.inf) < 0.05,
        "all images have nearly the same embedding. Remedy: model.init=scaled, head.batch_norm=true, a lower optim.lr, a longer "
        "optim.warmup; see docs/small-runs.md",
    ),
    Alarm(
        "rank one",
        lambda line: line.get("effective_rank", math.inf) < 1.5,
        "the features differ along one direction at most. Remedy: a lower optim.lr, a longer optim.warmup, model.init=scaled",
    ),
)
FLAT = Alarm(
    "flat",
    lambda line: "chance" in line and line["loss"] > 0.98 * line["chance"],
    "the loss stays at that of guessing: crops do not find their partner. Remedy: model.init=scaled, head.batch_norm=true, a longer "
    "optim.warmup, a higher optim.lr; see docs/small-runs.md",
)


def pair_figures(features: list[Tensor], embeddings: list[Tensor]) -> dict[str, float]:
    """Figures of features (V, B_m, D) and embeddings (V, B_m, K) of each micro-batch, over all processes.

    Returns:
        effective_rank: of the features.
        embedding_std: standard deviation of the normalised embeddings, mean over their channels, times the root of K: 1 if they are
            spread over the sphere, 0 if all images have the same.
    """
    z = gather_over_ranks(unit(torch.cat(embeddings, 1).flatten(0, 1)))
    spread = z.std(0, correction=0).mean() * math.sqrt(z.shape[1])
    return feature_figures(features) | {"embedding_std": spread.item()}


class Cached(NamedTuple):
    """What a micro-batch takes from a first look at the whole batch."""

    gradient: Tensor  # of the whole batch's loss by this micro-batch's embeddings, (2, B_m, K), times the number of micro-batches
    logs: Logs  # of the whole batch's loss
    seed: int  # of the draws of stochastic depth


class WholeBatch(Method):
    """A student without teacher, whose loss is a function of the embeddings of the whole batch, over micro-batches and ranks.

    With several micro-batches each goes through the networks twice: first without gradient, which gives all embeddings of the step,
    and the loss's gradient by each of them; then with it, and this gradient is passed on (GradCache, arXiv 2101.06983). The step is
    that of the whole batch, save that batch norm takes the statistics of each micro-batch, and moves its running ones twice.
    """

    ALARMS: ClassVar[tuple[Alarm, ...]] = ALARMS

    def __init__(self, backbone: nn.Module, cfg: Config):
        options: Any = own_options(cfg, self.Options)
        super().__init__({"backbone": backbone, "head": projector(cast(int, backbone.dim), options.head)})
        self.loss_options = options.loss
        self.seen: tuple[Tensor, Tensor] | None = None  # features and embeddings of the last micro-batch

    @classmethod
    def check(cls, cfg: Config) -> None:
        check_pairs(cfg)

    def compare(self, first: Tensor, second: Tensor) -> tuple[Tensor, Logs]:
        """The loss of the embeddings (B, K) of both crops, and its parts for the log."""
        raise NotImplementedError

    @torch.no_grad()
    def targets(self, batches: list[Views], s: StepValues) -> list[Cached | None]:
        if len(batches) == 1:
            return [None]
        seeds = [torch.initial_seed() + m for m in range(len(batches))]
        found = []
        for views, seed in zip(batches, seeds):
            torch.manual_seed(seed)
            found.append(embed(self.student, views)[1])
        with torch.enable_grad():
            z_2BK = torch.cat(found, 1).requires_grad_()
            loss, logs = self.compare(*z_2BK)
            (gradient,) = torch.autograd.grad(loss, z_2BK)
        sizes = [z.shape[1] for z in found]
        parts = (gradient * len(batches)).split(sizes, 1)  # the step divides each micro-batch's loss by their number
        return [Cached(part, logs, seed) for part, seed in zip(parts, seeds)]

    def loss(self, views: Views, targets: Cached | None, s: StepValues) -> tuple[Tensor, Logs]:
        if targets:
            torch.manual_seed(targets.seed)
        features, z_2BK = embed(self.student, views)
        self.seen = features.detach(), z_2BK.detach()
        if not targets:
            return self.compare(*z_2BK)
        passed_on = (z_2BK * targets.gradient).sum()
        return targets.logs["loss"] + passed_on - passed_on.detach(), targets.logs

    def figures(self, targets: list[Any], parts: Mapping[str, float]) -> dict[str, float]:
        return pair_figures(*([x] for x in self.seen)) if self.seen else {}
