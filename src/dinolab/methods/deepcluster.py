"""DeepCluster-v2 (arXiv 2006.09882, section B): each crop predicts the cluster that its image had at the start of the epoch.

The embeddings of the last pass over the images are kept in a memory. At the start of each epoch, spherical k-means makes clusters of
them, several times from other starts. The centroids are the prototypes of the epoch, and are not trained.

Shapes: B images, V crops of an image, N images of the run, D width of an embedding, H clusterings, K clusters.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dinolab.data import draws
from dinolab.data.types import Source, Views
from dinolab.errors import UserError
from dinolab.fields import option, section
from dinolab.losses_clusters import cluster_cross_entropy, nearest, spherical_means
from dinolab.methods.base import Alarm, Logs, Method, StepValues, own_options
from dinolab.methods.figures import effective_rank
from dinolab.models.heads import ClusterHead
from dinolab.options import Config
from dinolab.panels import HEALTH, LOSS, Panel
from dinolab.parallel import gather_over_ranks, rank
from dinolab.progress import progress_bar


@dataclass
class Head:
    hidden: int = option(2048, "width of the hidden layer", 1, 65536)
    bottleneck: int = option(128, "width of an embedding", 1, 65536)
    batch_norm: bool = option(True, "batch norm after the hidden layer")


@dataclass
class Clusters:
    number: int = option(3000, "clusters of each clustering, K; at most as many as there are images", 2, 1 << 24)
    times: int = option(3, "clusterings, each from another start, H; the loss is the mean over them", 1, 100)
    rounds: int = option(10, "rounds of k-means at the start of each epoch", 1, 1000)


@dataclass
class Loss:
    student_temperature: float = option(0.1, "temperature of the predictions' softmax", 1e-3, 10)


@dataclass
class Options:
    head: Head = section(Head, "projection head")
    clusters: Clusters = section(Clusters, "k-means of the epoch's embeddings")
    loss: Loss = section(Loss, "temperature")


class DeepCluster(Method):
    TITLE = "DeepCluster-v2"
    Options: ClassVar[type] = Options
    PREPARES = (
        "before the first step it computes the embeddings of all images once, which this forecast does not include"
    )
    PANELS = (
        Panel(LOSS, "loss", {"loss": "DeepCluster-v2"}, level="log_k", level_label="log K"),
        Panel(HEALTH, "clusters with images", {"clusters_used": "clusters"}, zero=True, percent=True),
        Panel(HEALTH, "images in the largest cluster", {"largest_cluster": "images"}, zero=True, percent=True),
        Panel(HEALTH, "effective rank of the embeddings", {"effective_rank": "rank"}, zero=True),
    )
    ALARMS = (
        Alarm(
            "starved clusters",
            lambda line: line.get("clusters_used", 1.0) < 0.5,
            "more than half of the clusters have no image. Remedy: fewer clusters (clusters.number), more clusters.rounds, "
            "a lower optim.lr",
        ),
        Alarm(
            "collapse of clusters",
            lambda line: line.get("largest_cluster", 0.0) > 0.5,
            "one cluster has more than half of the images. Remedy: a lower optim.lr, a longer optim.warmup, head.batch_norm=true, "
            "more clusters (clusters.number)",
        ),
        Alarm(
            "rank one",
            lambda line: line.get("effective_rank", math.inf) < 1.5,
            "the embeddings differ along one direction at most. Remedy: a lower optim.lr, a longer optim.warmup, "
            "head.batch_norm=true",
        ),
    )

    memory: Tensor  # (2, N, D), the last embeddings of each image's global crops; zero for one that has not been seen
    clusters: Tensor  # int64 (H, N), of each image in each clustering; -1 for none
    centroids: Tensor  # (H, K, D)

    def __init__(self, backbone: nn.Module, cfg: Config, images: int = 0):
        options = own_options(cfg, Options)
        head, wanted = options.head, options.clusters
        made = ClusterHead(cast(int, backbone.dim), head.hidden, head.bottleneck, batch_norm=head.batch_norm)
        super().__init__({"backbone": backbone, "head": made})
        images = images or wanted.number  # enough to measure a step
        self.register_buffer("memory", torch.zeros(2, images, head.bottleneck))
        self.register_buffer("clusters", torch.full((wanted.times, images), -1))
        self.register_buffer("centroids", torch.zeros(wanted.times, wanted.number, head.bottleneck))
        self.rounds, self.temperature, self.seed = wanted.rounds, options.loss.student_temperature, cfg.seed
        self.log_k = math.log(wanted.number)

    @classmethod
    def make(cls, backbone: nn.Module, cfg: Config, source: Source | None) -> "DeepCluster":
        images, k = len(source) if source else 0, own_options(cfg, Options).clusters.number
        if source and k > images:
            raise UserError(
                f"clusters.number={k}: more clusters than the {images} images of {source.name}; set it to {images} or less"
            )
        return cls(backbone, cfg, images)

    @torch.no_grad()
    def prepare(self, batches: Iterable[list[Views]]) -> None:
        """Fill the memory by one pass over the images, on every process. Raises UserError if the run is too short for the clusters."""
        images, seen = self.memory.shape[1], 0
        with progress_bar("embeddings of all images", images, rank() == 0, "images") as advance:
            for step in batches:
                for views in step:
                    globals_only = views._replace(local_crops=views.local_crops[:0]).to(self.memory.device)
                    self.memory[:, views.indices.to(self.memory.device)] = self.embed(globals_only).to(
                        self.memory.dtype
                    )
                    seen += len(views.indices)
                    advance(len(views.indices))
                if seen >= images:
                    break
        k, known = self.centroids.shape[1], self.known().numel()
        if known < k:
            raise UserError(
                f"clusters.number={k}, but the whole run sees only {known} images; set it lower, or a longer optim.length"
            )

    def known(self) -> Tensor:
        """The images with embeddings in the memory, int64."""
        return self.memory.any(-1).all(0).nonzero().squeeze(1)

    @torch.no_grad()
    def begin_epoch(self, epoch: int) -> None:
        """Cluster the memory. Clustering h takes the embeddings of global crop h mod 2, and starts from those of random images."""
        known = self.known()
        times, k = self.centroids.shape[:2]
        for h in range(times):
            x = self.memory[h % 2, known]
            rng = draws.rng(self.seed, draws.CLUSTERS, epoch * times + h)
            found = x[torch.from_numpy(rng.permutation(len(x))[:k]).to(x.device)]
            for _ in range(self.rounds):
                found = spherical_means(x, found)
            self.centroids[h] = found
            self.clusters[h, known] = nearest(x, found)

    def embed(self, views: Views) -> Tensor:
        """Embeddings (V, B, D) of length one, of all crops."""
        _, cls_VD = self.student_features(views)
        z_VBD: Tensor = self.student["head"](cls_VD).unflatten(0, (-1, len(views.indices)))
        return z_VBD

    def loss(self, views: Views, targets: None, s: StepValues) -> tuple[Tensor, Logs]:
        z_VBD = self.embed(views)
        images_B = views.indices.to(z_VBD.device, non_blocking=True)
        clusters_HB = self.clusters.index_select(1, images_B)
        each = [
            cluster_cross_entropy(z_VBD, centroids_KD, clusters_B, self.temperature)
            for centroids_KD, clusters_B in zip(self.centroids, clusters_HB)
        ]
        loss = torch.stack(each).mean()
        self.remember(z_VBD[:2].detach(), images_B)
        return loss, {"loss": loss.detach()}

    @torch.no_grad()
    def remember(self, z_2BD: Tensor, images_B: Tensor) -> None:
        """Put the embeddings of all ranks' global crops into the memory."""
        z = gather_over_ranks(z_2BD.transpose(0, 1).contiguous()).transpose(0, 1)
        images = gather_over_ranks(images_B)
        # An image may be there twice, where a batch reaches into the next epoch. Both then write the later one's embedding, since
        # the order of writing is not defined on a GPU.
        same = images[:, None] == images
        latest = (same * torch.arange(len(images), device=images.device)).argmax(1)
        self.memory.index_copy_(1, images, z.index_select(1, latest).to(self.memory.dtype))

    def figures(self, targets: list[Any], parts: Mapping[str, float]) -> dict[str, float]:
        k = self.centroids.shape[1]
        sizes = [torch.bincount(row[row >= 0], minlength=k) for row in self.clusters]
        return {
            "clusters_used": min((n > 0).float().mean().item() for n in sizes),
            "largest_cluster": max((n.max() / n.sum()).item() for n in sizes),
            "effective_rank": effective_rank(self.memory[0, self.known()]),
            "log_k": self.log_k,
        }
