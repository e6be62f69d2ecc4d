"""What follows from an encoder's features of all images: maps, neighbours, clusters, predictions, prototypes. N images, D features.

Each is computed when it is first asked for. What takes long is kept for the next time.
"""

import hashlib
import sys
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.curation import kmeans
from dinolab.curation.graph import Neighbours, search
from dinolab.explore.collection import Collection
from dinolab.explore.columns import voted
from dinolab.explore.heads import Assigned, Head, assign, head_of
from dinolab.explore.later import Later, Report
from dinolab.explore.layers import Layer, layers_of
from dinolab.explore.maps import aligned, kept, pca_map
from dinolab.explore.options import ExploreOptions
from dinolab.explore.umap_map import umap_map
from dinolab.features.inputs import Extraction, extraction_arguments, open_encoder

NEIGHBOURS, VOTERS = 24, 20  # of an image; those whose labels predict its own
CLUSTERS, CLUSTERED = 20, 50_000  # groups of images, and images that they are learned from
FORMAT = b"maps 2"  # to be raised when the same features give other maps or neighbours
SLOW_UMAP = "UMAP of the nearest neighbours (the first time, about a minute goes by until its code is compiled)"


class Directions(NamedTuple):
    """Features of all images."""

    unit: Tensor  # float32 (N, D), each of length one
    lengths: Tensor  # float32 (N, 1), that they had


class Survey:
    """An encoder and all images.

    Args:
        word: what `dinolab.load` takes.
        images: all images of the source.
        options: how features are computed.
        folder: where results are kept for the next time; None keeps nothing.
        first: the survey to whose maps the own ones are turned, and whose images are looked at; None for the first one.
    """

    def __init__(
        self, word: str, images: Collection, options: ExploreOptions, folder: Path | None, first: "Survey | None" = None
    ) -> None:
        self.word, self.images, self.options, self.folder, self.first = word, images, options, folder, first
        name = Path(word).name
        self.opened = Later(self.open, f"opening {name}")
        self.features = Later(self.make_features, f"features by {name}")
        self.pca = Later(self.make_pca, "principal components")
        self.graph = Later(self.make_graph, "nearest neighbours")
        self.umap = Later(self.make_umap, SLOW_UMAP)
        self.clusters = Later(self.make_clusters, "clusters")
        self.predicted = Later(self.make_predicted, "predictions by the nearest neighbours")
        self.assigned = Later(self.make_assigned, f"prototypes of {name}")
        self.rows: np.ndarray | None = None  # positions of the images that are looked at, among all images

    def open(self, report: Report) -> tuple[Any, Extraction]:
        """The network, on its device, and how features of all images are computed."""
        network = open_encoder(self.word)[1]
        how = Extraction(**extraction_arguments(network, self.options, progress=sys.stderr.isatty()))
        return network.to(how.device), how

    @cached_property
    def head(self) -> Head | None:
        return head_of(Path(self.word))

    @cached_property
    def layers(self) -> list[Layer]:
        """Those whose predictions can be shown."""
        return layers_of(self.word, self.opened.wait()[0])

    @cached_property
    def by_layer(self) -> dict[str, Later[np.ndarray]]:
        """The predictions by each of `layers`, by their names."""
        return {one.name: Later(partial(self.make_by_layer, one), f"predictions by {one.name}") for one in self.layers}

    def make_by_layer(self, layer: Layer, report: Report) -> np.ndarray:
        """The class of each image that is looked at, int64 (N,)."""
        self.features.wait()
        return layer.predict(self.opened.wait()[0], self.images.source, self.options)[self.rows]

    def make_features(self, report: Report) -> Directions:
        features, readable = features_of(*self.opened.wait(), self.images)
        if self.first:
            self.first.features.wait()
        self.rows = self.first.rows if self.first else drawn(readable, self.options)
        assert self.rows is not None
        if len(self.rows) < len(features):
            features = features[torch.from_numpy(self.rows)]
        lengths = features.norm(dim=1, keepdim=True)
        return Directions(features / lengths.clamp(min=1e-12), lengths)

    @cached_property
    def key(self) -> str:
        """By which what follows from the features is kept."""
        return hashlib.blake2b(self.features.wait().unit.numpy().data, digest_size=16, key=FORMAT).hexdigest()

    def file(self, name: str) -> Path | None:
        return self.folder and self.folder / f"{self.key}.{name}.safetensors"

    def make_pca(self, report: Report) -> np.ndarray:
        unit = self.features.wait().unit
        points = kept(self.file("pca"), lambda: {"points": pca_map(unit)})["points"]
        return (aligned(points, torch.from_numpy(self.first.pca.wait())) if self.first else points).numpy()

    def make_graph(self, report: Report) -> Neighbours:
        def make() -> dict[str, Tensor]:
            found = search(self.features.wait().unit, None, NEIGHBOURS, np.random.default_rng(0))
            return {"similarities": found.similarities, "indices": found.indices.int()}

        found = kept(self.file("neighbours"), make)
        return Neighbours(found["similarities"], found["indices"].long(), 1.0)

    def make_umap(self, report: Report) -> np.ndarray:
        def make() -> dict[str, Tensor]:
            found = umap_map(self.features.wait().unit, self.graph.wait(), self.pca.wait(), report)
            return {"points": torch.from_numpy(found)}

        points = kept(self.file("umap"), make)["points"]
        return (aligned(points, torch.from_numpy(self.first.umap.wait())) if self.first else points).numpy()

    def make_clusters(self, report: Report) -> np.ndarray:
        """The cluster of each image by spherical k-means, int64 (N,); cluster 0 is the largest."""
        unit, rng = self.features.wait().unit, np.random.default_rng(0)
        drawn = np.sort(rng.choice(len(unit), min(len(unit), CLUSTERED), replace=False))
        centroids, _ = kmeans.kmeans(unit[torch.from_numpy(drawn)], CLUSTERS, rng, spherical=True)
        centroids = F.normalize(centroids, dim=1)
        found = kmeans.assign(unit, centroids).numpy()
        largest_first = np.argsort(-np.bincount(found, minlength=len(centroids)), kind="stable")
        return np.argsort(largest_first)[found]

    def make_predicted(self, report: Report) -> np.ndarray:
        """The class that the neighbours of each image vote for, int64 (N,)."""
        source, graph = self.images.source, self.graph.wait()
        assert source.labels is not None and self.rows is not None
        parts = zip(graph.similarities[:, :VOTERS].split(1 << 16), graph.indices[:, :VOTERS].split(1 << 16))
        return np.concatenate([voted(*part, source.labels[self.rows], len(source.classes)) for part in parts])

    def make_assigned(self, report: Report) -> Assigned:
        """The prototypes of all images; only to be asked for where there are any."""
        assert self.head
        return assign(self.head.read(), *self.features.wait())

    def settle(self) -> None:
        """Compute all that images are coloured by."""
        self.clusters.wait()
        if self.images.source.labels is not None:
            self.predicted.wait()
        for predicted in self.by_layer.values():
            predicted.wait()
        if self.head:
            self.assigned.wait()

    def neighbours(self, token: Tensor, own: int | None, count: int = NEIGHBOURS) -> tuple[Tensor, Tensor]:
        """The images whose features are nearest to a class token (D,) of length one.

        Args:
            own: the image that it is of, which is left out.

        Returns:
            Cosine similarities float32 (k,), greatest first, and numbers int64 (k,).
        """
        similarity = self.features.get().unit @ token
        if own is not None:
            similarity[own] = -torch.inf
        found = similarity.topk(min(count, len(similarity) - (own is not None)))
        return found.values, found.indices


def drawn(rows: np.ndarray, options: ExploreOptions) -> np.ndarray:
    """All rows, or the sample of them that is exported."""
    if not options.export or len(rows) <= options.sample:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, options.sample, replace=False))


def features_of(network: Any, how: Extraction, images: Collection) -> tuple[Tensor, np.ndarray]:
    """Class tokens of all images of a source, float32 (N, D), zeros for those that cannot be read; positions of the others."""
    found = how.extract(network, images.source)
    kept_rows = found.kept.numpy()
    if len(kept_rows) == len(images):
        return found.matrix(), kept_rows
    features = torch.zeros(len(images), found.matrix().shape[1])
    features[found.kept] = found.matrix()
    return features, kept_rows


def changes(one: Neighbours, two: Neighbours, most: int) -> list[tuple[int, float]]:
    """The images whose neighbours differ most, with the share that both have: the smallest share first."""
    shares = []
    for a, b in zip(one.indices.split(4096), two.indices.split(4096)):
        shares.append((a[:, :, None] == b[:, None, :]).any(2).float().mean(1))
    share = torch.cat(shares)
    order = share.argsort(stable=True)[:most]
    return list(zip(order.tolist(), share[order].tolist()))
