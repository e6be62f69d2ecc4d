"""MoCo-v2 (arXiv 2003.04297; MoCo, arXiv 1911.05722, Algorithm 1): a crop finds the momentum teacher's key of the other crop of its
image among the keys of earlier batches, which are kept in a queue.

Shapes: B images, D width of a feature, K width of an embedding; m runs over the micro-batches of a step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.fields import option, section
from dinolab.losses_pairs import info_nce, unit
from dinolab.methods import momentum, pairs
from dinolab.methods.base import Alarm, Logs, StepValues, join, own_options
from dinolab.methods.momentum import MomentumTeacher, momentum_schedule
from dinolab.methods.pairs import check_pairs, embed, pair_figures, projector
from dinolab.methods.schedules import Phase, Schedule
from dinolab.options import Config
from dinolab.panels import HEALTH, Panel
from dinolab.parallel import gather_over_ranks


@dataclass
class Projector(pairs.Projector):
    out: int = option(128, "width of the embedding", 1, 65536)
    batch_norm: bool = option(False, "batch norm after each hidden layer")


@dataclass
class Loss:
    temperature: float = option(0.2, "temperature of the softmax over keys", 1e-3, 10)
    queue: int = option(65536, "keys of earlier images that a crop is compared with", 1, 1 << 24)


@dataclass
class Ema(momentum.Ema):
    start: float = option(0.999, "momentum of the teacher at the start", 0, 1)
    end: float = option(0.999, "momentum of the teacher at the end of the run (cosine)", 0, 1)


@dataclass
class Options:
    head: Projector = section(Projector, "projection head of the class token")
    loss: Loss = section(Loss, "temperature, and the queue of keys")
    ema: Ema = section(Ema, "momentum of the teacher, which makes the keys")


class Targets(NamedTuple):
    """What the teacher says of the second crops of one micro-batch."""

    features_1BD: Tensor
    keys_1BK: Tensor


class MoCo(MomentumTeacher):
    """The product is the student's backbone, as published.

    Batch norm leaks: statistics that a crop shares with its own key, but not with those of other batches, tell them apart. MoCo shuffles
    the keys over GPUs, each with statistics of its own. Here statistics are those of a micro-batch over all ranks, so keys are shuffled
    over the micro-batches of the step. With a single micro-batch there is nothing to shuffle, and a network with batch norm leaks:
    MoCo's 8 GPUs with 32 images each are optim.batch_size=256 and run.micro_batch=32. Without batch norm, micro-batches and the shuffle
    change nothing.
    """

    TITLE = "MoCo-v2"
    PRODUCT = "student"
    Options: ClassVar[type] = Options
    PANELS = (
        pairs.CONTRAST,
        pairs.ACCURACY,
        *pairs.PANELS,
        Panel(HEALTH, "keys in the queue", {"queue_filled": "share"}, zero=True, percent=True),
        momentum.PANEL,
    )
    ALARMS: ClassVar[tuple[Alarm, ...]] = (
        *pairs.ALARMS,
        pairs.FLAT,
        Alarm(
            "queue not full",
            lambda line: line.get("queue_filled", 1) < 1,
            "after a tenth of the run the queue still holds random vectors in place of keys. Remedy: a smaller loss.queue",
        ),
    )

    queue: Tensor  # (loss.queue, K), keys of length one
    entered: Tensor  # int64 (), keys that have entered the queue; the next one goes to this place modulo its length

    def __init__(self, backbone: nn.Module, cfg: Config):
        options = own_options(cfg, Options)
        super().__init__({"backbone": backbone, "head": projector(cast(int, backbone.dim), options.head)})
        self.temperature = options.loss.temperature
        self.register_buffer("queue", F.normalize(torch.randn(options.loss.queue, options.head.out)))
        self.register_buffer("entered", torch.zeros((), dtype=torch.int64))
        self.entering: list[Tensor] = []  # this step's keys, (B_m, K)

    @classmethod
    def check(cls, cfg: Config) -> None:
        check_pairs(cfg)
        queue = own_options(cfg, Options).loss.queue
        if queue < cfg.optim.batch_size:
            raise UserError(
                f"loss.queue={queue} is smaller than optim.batch_size={cfg.optim.batch_size}: "
                "the queue must hold the keys of a batch at least"
            )

    @classmethod
    def schedules(cls, cfg: Config, phase: Phase) -> dict[str, Schedule]:
        return momentum_schedule(own_options(cfg, Options).ema, phase)

    @torch.no_grad()
    def targets(self, batches: list[Views], s: StepValues) -> list[Targets]:
        """The keys, which the teacher makes in shuffled groups as large as the micro-batches."""
        m = len(batches)
        crops = join([views.global_crops[1:] for views in batches], 1)  # (1, B, C, S, S)
        groups = [batches[0]._replace(global_crops=crops[:, first::m]) for first in range(m)]
        made = [embed(self.teacher, group, crops=1) for group in groups]
        # in the order of the images again
        features, keys = (torch.stack(parts, 2).flatten(1, 2) for parts in zip(*made))
        sizes = [views.global_crops.shape[1] for views in batches]
        self.entering = list(keys[0].split(sizes))
        return [Targets(*parts) for parts in zip(features.split(sizes, 1), keys.split(sizes, 1))]

    def loss(self, views: Views, targets: Targets, s: StepValues) -> tuple[Tensor, Logs]:
        _, (queries,) = embed(self.student, views, crops=1)
        loss, accuracy = info_nce(queries, targets.keys_1BK[0], self.queue, self.temperature)
        return loss, {"loss": loss.detach(), "accuracy": accuracy}

    @torch.no_grad()
    def after_step(self, s: StepValues) -> None:
        """The teacher follows, and this step's keys replace the oldest, in the order of the step's images whatever the ranks."""
        super().after_step(s)
        keys = torch.cat([gather_over_ranks(unit(part)) for part in self.entering]).to(self.queue.dtype)
        places = (self.entered + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue.index_copy_(0, places, keys)
        self.entered += len(keys)
        self.entering = []

    def figures(self, targets: list[Any], parts: Mapping[str, float]) -> dict[str, float]:
        filled = min(1.0, self.entered.item() / len(self.queue))
        found = pair_figures(*map(list, zip(*targets)))
        return found | {"queue_filled": filled, "chance": math.log(1 + len(self.queue))}
