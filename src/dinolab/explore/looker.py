"""One encoder that images are looked at with: its features of all images, and what it says about one of them, on demand.

N images, D width of the features, h x w patches of an image.
"""

import hashlib
import sys
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.explore.collection import Collection
from dinolab.explore.heads import Assigned, Prototypes, assign, read_prototypes
from dinolab.explore.later import Later, Report
from dinolab.explore.options import ExploreOptions
from dinolab.explore.pictures import Image, Pictures
from dinolab.explore.recent import Recent
from dinolab.features.inputs import Extraction, extraction_arguments, open_encoder
from dinolab.features.pixels import PixelEncoder
from dinolab.models.encoder import evaluating
from dinolab.rundir import RunFolder
from dinolab.training.checkpoint import checkpoints, step_of
from dinolab.visuals.attention import attention_maps, mass_mask
from dinolab.visuals.images import fit_patches, patch_features, usual_size
from dinolab.visuals.neighbours import class_tokens
from dinolab.visuals.pca import fit, paint

PATCHES = 28  # along the short side of an image whose patches are shown
KEPT = 64  # answers of each kind that are kept in memory
SHARE = 0.6  # of the attention, which the mask covers


@dataclass(frozen=True)
class Named:
    """An encoder that can be opened: a model, or a checkpoint that a run has kept."""

    name: str  # as the page shows it
    word: str  # what `dinolab.load` takes
    model: str  # the word on the command line that brought it in
    step: int | None = None  # of a checkpoint


def named_encoders(model: str) -> list[Named]:
    """The encoders that a word on the command line brings in: the checkpoints of a run, and then the one that it names."""
    name = Path(model).name if Path(model).is_dir() else model
    kept = checkpoints(RunFolder(Path(model)).checkpoints)
    steps = [Named(f"{name}@{step_of(place)}", str(place), model, step_of(place)) for place in kept]
    return [*steps, Named(name, model, model)]


class Directions(NamedTuple):
    """Features of all images."""

    unit: Tensor  # float32 (N, D), each of length one
    lengths: Tensor  # float32 (N, 1), that they had


class Looker:
    """An encoder, which is opened when it is first needed. One image at a time passes through it.

    Args:
        named: where it comes from.
        images: all images of the source.
        options: how features are computed, and how large images are whose patches are shown.
        rows: positions of the images that are looked at, int64 (N,); None: all that the encoder can read.

    Attributes:
        pictures: where single images come from; to be set before one is looked at.
    """

    pictures: Pictures

    def __init__(
        self, named: Named, images: Collection, options: ExploreOptions, rows: np.ndarray | None = None
    ) -> None:
        self.named, self.images, self.options, self.rows = named, images, options, rows
        self.recent = Recent(KEPT)
        self.lock = threading.RLock()
        self.features = Later(self.all_features, f"features by {named.name}")
        self.key = Later(lambda report: fingerprint(self.features.wait().unit), f"features by {named.name}")
        self.assigned = Later(self.assign, f"prototypes of {named.name}")

    @cached_property
    def opened(self) -> tuple[Any, Extraction]:
        """The network, on its device, and how features of all images are computed."""
        with self.lock:
            network = open_encoder(self.named.word)[1]
            how = Extraction(**extraction_arguments(network, self.options, progress=sys.stderr.isatty()))
            return network.to(how.device), how

    @property
    def network(self) -> Any:
        return self.opened[0]

    @cached_property
    def prototypes(self) -> Prototypes | None:
        return read_prototypes(Path(self.named.word))

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What about.json says of it: whether it has patches, attention, prototypes."""
        has_patches = not isinstance(self.network, PixelEncoder)
        facts = {"patches": has_patches, "attention": False, "heads": 0, "prototypes": self.prototypes is not None}
        if has_patches and self.network.has_class_token:
            side = self.network.image_size
            with self.lock, evaluating(self.network):
                heads = self.network.attention(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape[1]
            facts |= {"attention": True, "heads": heads}
        return facts

    def all_features(self, report: Report) -> Directions:
        """Features of all images that are looked at."""
        network, how = self.opened
        with self.lock:
            features, readable = features_of(network, how, self.images)
        if self.rows is None:
            self.rows = readable
        if len(self.rows) < len(features):
            features = features[torch.from_numpy(self.rows)]
        lengths = features.norm(dim=1, keepdim=True)
        return Directions(features / lengths.clamp(min=1e-12), lengths)

    def assign(self, report: Report) -> Assigned | None:
        found = self.features.wait()
        return assign(self.prototypes, found.unit, found.lengths) if self.prototypes else None

    def class_token(self, image: Image) -> Tensor:
        """The features of one image as those of all images are computed, float32 (D,), of length one."""
        if isinstance(image, int):
            return self.features.wait().unit[image]
        network, how = self.opened
        with self.lock:
            return F.normalize(class_tokens(network, [self.pictures.read(image)], how.size)[0], dim=0)

    def fitted(self, image: Image) -> Tensor:
        """The pixels whose patches are shown, uint8 (3, H, W)."""
        picture = self.pictures.read(image)
        patch = self.network.patch_size
        side = self.options.detail or min(
            usual_size(self.network, picture), max(PATCHES * patch, self.network.image_size)
        )
        return fit_patches(picture, patch, side, self.pictures.name(image))

    def patches(self, image: Image) -> np.ndarray:
        """float16 (h, w, D), each patch of length one."""
        return F.normalize(self.patch_features(image), dim=-1).half().numpy()

    def patch_features(self, image: Image) -> Tensor:
        def make() -> Tensor:
            with evaluating(self.network):
                return patch_features(self.network, self.fitted(image))

        with self.lock:
            return self.recent.get(("patches", image), make)

    def attention_maps(self, image: Image) -> Tensor:
        """Of each head, and their mean as the last, float32 (heads + 1, h, w)."""

        def make() -> Tensor:
            with evaluating(self.network):
                maps = attention_maps(self.network, self.fitted(image)[None])[0].float().cpu()
            return torch.cat([maps, maps.mean(0, keepdim=True)])

        with self.lock:
            return self.recent.get(("attention", image), make)

    def attention(self, image: Image) -> np.ndarray:
        """uint8 (heads + 1, h, w); 255 is the greatest value of a map."""
        maps = self.attention_maps(image)
        return (255 * maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).round().byte().numpy()

    def mask(self, image: Image) -> np.ndarray:
        """uint8 (heads + 1, h, w), 1 for the fewest patches that hold 60 % of the attention."""
        return mass_mask(self.attention_maps(image), SHARE).byte().numpy()

    def pca(self, image: Image) -> np.ndarray:
        """The first three principal components of the image's patches as colours, uint8 (h, w, 3)."""
        features = self.patch_features(image)
        return (255 * paint(features, fit([features])).rgb).round().byte().numpy()


def features_of(network: Any, how: Extraction, images: Collection) -> tuple[Tensor, np.ndarray]:
    """Class tokens of all images of a source, float32 (N, D), zeros for those that cannot be read; positions of the others."""
    stored = images.stored(network, how)
    if stored is not None:
        return stored.float(), np.arange(len(images))
    found = how.extract(network, images.source)
    kept = found.kept.numpy()
    if len(kept) == len(images):
        return found.matrix(), kept
    features = torch.zeros(len(images), found.matrix().shape[1])
    features[found.kept] = found.matrix()
    return features, kept


def fingerprint(features: Tensor) -> str:
    """By which what follows from features is kept."""
    return hashlib.blake2b(features.numpy().data, digest_size=16).hexdigest()
