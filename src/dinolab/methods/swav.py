"""SwAV (arXiv 2006.09882, Algorithm 1): each crop predicts the cluster assignment that another crop of the image gets.

There is no teacher. The two global crops are assigned to prototypes by Sinkhorn-Knopp, which uses all prototypes equally, and every
other crop of the image predicts that assignment.

Shapes: B images, V crops of an image, D width of an embedding, K prototypes, Q length of the queue; m runs over micro-batches.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from dinolab.data.types import Views
from dinolab.errors import UserError
from dinolab.fields import duration, option, section
from dinolab.losses_clusters import assignments_with_queue
from dinolab.methods.base import Alarm, Logs, Method, StepValues, join, own_options
from dinolab.methods.figures import feature_figures, target_figures
from dinolab.methods.prototypes import Targets, multi_crop_loss
from dinolab.methods.schedules import Freeze, Phase, Schedule
from dinolab.models.heads import ClusterHead
from dinolab.options import Config
from dinolab.panels import HEALTH, LOSS, Panel
from dinolab.parallel import gather_over_ranks

EMPTY, FILLING, IN_USE = 0.0, 1.0, 2.0  # the queue, as the scheduled value "queue"


@dataclass
class Head:
    hidden: int = option(2048, "width of the hidden layer", 1, 65536)
    bottleneck: int = option(128, "width of an embedding", 1, 65536)
    prototypes: int = option(3000, "number of prototypes, K", 2, 1 << 24)
    batch_norm: bool = option(True, "batch norm after the hidden layer")


@dataclass
class Loss:
    student_temperature: float = option(0.1, "temperature of the predictions' softmax", 1e-3, 10)
    epsilon: float = option(0.05, "Sinkhorn-Knopp's entropy weight: a lower one makes sharper assignments", 1e-3, 10)
    sinkhorn_iterations: int = option(3, "iterations of Sinkhorn-Knopp", 1, 100)
    freeze_prototypes: str = duration("1 epochs", "how long the prototypes are held fixed at the start")
    queue: int = option(0, "embeddings of earlier images, in each assignment beside the batch's (0: none)", 0, 1 << 24)
    queue_start: str = duration("15 epochs", "when the queue begins to fill; it counts once it is full")


@dataclass
class Options:
    head: Head = section(Head, "projection head and prototypes")
    loss: Loss = section(Loss, "temperature, Sinkhorn-Knopp, prototypes, queue")


@dataclass
class Assigned(Targets):
    """The targets of a micro-batch, with the student's embeddings of all its crops where they have been computed for them."""

    compared_VD: tuple[Tensor, Tensor] | None = (
        None  # embeddings ((2 + L) B, D) and prototypes (K, D), with their gradient
    )


class SwAV(Method):
    TITLE = "SwAV"
    Options: ClassVar[type] = Options
    PANELS = (
        Panel(LOSS, "loss", {"loss": "SwAV"}, level="log_k", level_label="log K"),
        Panel(HEALTH, "entropy of the assignments, and KL", {"teacher_entropy": "entropy", "kl": "KL"}, zero=True),
        Panel(HEALTH, "effective rank of the embeddings", {"effective_rank": "rank"}, zero=True),
        Panel(HEALTH, "prototypes used", {"prototypes_used": "prototypes"}, zero=True, percent=True),
        Panel(HEALTH, "queue (1: it fills, 2: in use)", {"queue": "queue"}, zero=True),
    )
    ALARMS = (
        Alarm(
            "flat",
            lambda line: "kl" in line and line["kl"] + line["teacher_entropy"] > 0.98 * line["log_k"],
            "the loss stays at log K: no crop predicts the assignment of another. Remedy: a lower loss.epsilon (0.02), fewer "
            "head.prototypes, a longer optim.warmup, model.init=scaled",
        ),
        Alarm(
            "starved prototypes",
            lambda line: line.get("prototypes_used", 1.0) < 0.05,
            "fewer than one in twenty of the prototypes that could be is any crop's most likely one. Remedy: a lower loss.epsilon, "
            "fewer head.prototypes, loss.queue with small batches, a longer loss.freeze_prototypes",
        ),
        Alarm(
            "rank one",
            lambda line: line.get("effective_rank", math.inf) < 1.5,
            "the embeddings differ along one direction at most. Remedy: a lower optim.lr, a longer optim.warmup, "
            "a lower loss.epsilon, head.batch_norm=true",
        ),
    )

    queue: Tensor  # (2, Q, D), embeddings of earlier images, newest first, for each of the global crops; only with loss.queue

    def __init__(self, backbone: nn.Module, cfg: Config):
        options = own_options(cfg, Options)
        head, dim = options.head, cast(int, backbone.dim)
        made = ClusterHead(dim, head.hidden, head.bottleneck, head.prototypes, head.batch_norm)
        super().__init__({"backbone": backbone, "head": made})
        self.loss_options, self.log_k = options.loss, math.log(head.prototypes)
        if options.loss.queue:
            self.register_buffer("queue", torch.zeros(2, options.loss.queue, head.bottleneck))

    @classmethod
    def check(cls, cfg: Config) -> None:
        queue, batch = own_options(cfg, Options).loss.queue, cfg.optim.batch_size
        if queue % batch:
            fits = max(batch, round(queue / batch) * batch)
            raise UserError(
                f"loss.queue={queue} is not a multiple of optim.batch_size={batch}; {fits} is, and 0 is none"
            )

    @classmethod
    def schedules(cls, cfg: Config, phase: Phase) -> dict[str, Schedule]:
        loss = own_options(cfg, Options).loss
        if not loss.queue:
            return {}
        start = phase.steps(loss.queue_start, "loss.queue_start")
        full = start + loss.queue // cfg.optim.batch_size
        return {"queue": lambda step: IN_USE if step >= full else FILLING if step >= start else EMPTY}

    @classmethod
    def frozen(cls, cfg: Config, phase: Phase) -> dict[str, Freeze]:
        loss = own_options(cfg, Options).loss
        return {"prototypes": Freeze(phase.steps(loss.freeze_prototypes, "loss.freeze_prototypes"))}

    @classmethod
    def continue_in_next_phase(cls, cfg: Config) -> None:
        loss = own_options(cfg, Options).loss
        loss.freeze_prototypes = loss.queue_start = "0 steps"

    def targets(self, batches: list[Views], s: StepValues) -> list[Targets]:
        """The assignments of the global crops of the whole step.

        A single micro-batch goes through the student once, for targets and loss. Several go through it twice: the assignments need
        the embeddings of all of them, and their memory must not be kept until then.
        """
        once = len(batches) == 1
        with torch.set_grad_enabled(once):
            compared = [
                self.compare(views if once else views._replace(local_crops=views.local_crops[:0])) for views in batches
            ]
        with torch.no_grad():
            sizes = [len(views.indices) for views in batches]
            z_2BD = [z.detach()[: 2 * b].unflatten(0, (2, b)) for (z, _), b in zip(compared, sizes)]
            q_2BK = self.assign(join(z_2BD, 1), compared[0][1].detach(), s)
            if self.loss_options.queue and s["queue"] != EMPTY:
                self.enqueue(z_2BD)
            each = zip(q_2BK.split(sizes, dim=1), z_2BD, compared)
            return [Assigned(q, z, compared_VD=c if once else None) for q, z, c in each]

    def compare(self, views: Views) -> tuple[Tensor, Tensor]:
        """The student's embeddings of all crops, (V B, D), and the prototypes (K, D)."""
        _, cls_VD = self.student_features(views)
        return cast(ClusterHead, self.student["head"]).compare(cls_VD)

    def assign(self, z_2BD: Tensor, prototypes_KD: Tensor, s: StepValues) -> Tensor:
        """Assignments (2, B, K) of the global crops; Sinkhorn-Knopp takes each of the two by itself."""
        loss = self.loss_options
        in_use = bool(loss.queue) and s["queue"] == IN_USE
        with torch.autocast(z_2BD.device.type, enabled=False):  # it would round the scores to half precision
            scores = [z.to(prototypes_KD.dtype) @ prototypes_KD.T for z in z_2BD]
            queued = [q.to(prototypes_KD.dtype) @ prototypes_KD.T for q in self.queue] if in_use else [None, None]
        both = zip(scores, queued)
        return torch.stack([assignments_with_queue(x, q, loss.epsilon, loss.sinkhorn_iterations) for x, q in both])

    def enqueue(self, z_2BD: list[Tensor]) -> None:
        """Put the step's embeddings, of all ranks, in front of the queue; the oldest leave it."""
        # by micro-batches: then the order is that of the images, whatever the number of processes
        everyone = [gather_over_ranks(z.transpose(0, 1).contiguous()).transpose(0, 1) for z in z_2BD]
        newest = join(everyone, 1).to(self.queue.dtype)
        self.queue.copy_(torch.cat([newest, self.queue], 1)[:, : self.queue.shape[1]])

    def loss(self, views: Views, targets: Targets, s: StepValues) -> tuple[Tensor, Logs]:
        assert isinstance(targets, Assigned)
        compared = targets.compared_VD or self.compare(views)
        loss = multi_crop_loss(compared, targets.cls_2BK, self.loss_options.student_temperature)
        return loss, {"loss": loss.detach()}

    @torch.no_grad()
    def after_step(self, s: StepValues) -> None:
        cast(ClusterHead, self.student["head"]).normalise_prototypes()

    def figures(self, targets: list[Targets], parts: Mapping[str, float]) -> dict[str, float]:
        found = target_figures([t.cls_2BK for t in targets])
        found |= feature_figures([t.features_2BD for t in targets if t.features_2BD is not None])
        return found | {"kl": parts["loss"] - found["teacher_entropy"], "log_k": self.log_k}
