"""What an encoder says about one image, on demand. D features, h x w patches of the image.

Modules that also draw with matplotlib are imported where they are used: the first map need not wait for it.
"""

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.explore.pictures import Image, Pictures
from dinolab.explore.recent import Recent
from dinolab.explore.survey import Survey
from dinolab.features.pixels import PixelEncoder
from dinolab.models.encoder import evaluating
from dinolab.rundir import RunFolder, checkpoints, step_of
from dinolab.visuals.images import fit_patches, patch_features, usual_size

PATCHES = 28  # along the short side of an image whose patches are shown
KEPT = 48  # answers of each kind that are kept in memory
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


class Looker:
    """What an encoder says about single images. One image at a time passes through it.

    Args:
        survey: the encoder, and its features of all images.
        pictures: where images come from.
    """

    def __init__(self, survey: Survey, pictures: Pictures) -> None:
        self.survey, self.pictures = survey, pictures
        self.recent = Recent(KEPT)
        self.lock = threading.RLock()

    @property
    def network(self) -> Any:
        return self.survey.opened.wait()[0]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What about.json says of it: whether it has patches, attention, prototypes."""
        has_patches = not isinstance(self.network, PixelEncoder)
        facts = {"patches": has_patches, "attention": False, "heads": 0}
        if has_patches and self.network.has_class_token:
            side = self.network.image_size
            with self.lock, evaluating(self.network):
                heads = self.network.attention(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape[1]
            facts |= {"attention": True, "heads": heads}
        return {**facts, "prototypes": self.survey.head is not None}

    def class_token(self, image: Image) -> Tensor:
        """The features of one image as those of all images are computed, float32 (D,), of length one."""
        if isinstance(image, int):
            return self.survey.features.get().unit[image]
        from dinolab.visuals.neighbours import class_tokens

        def make() -> Tensor:
            network, how = self.survey.opened.wait()
            return F.normalize(class_tokens(network, [self.pictures.read(image)], how.size)[0], dim=0)

        with self.lock:
            return self.recent.get(("class token", image), make)

    def fitted(self, image: Image) -> Tensor:
        """The pixels whose patches are shown, uint8 (3, H, W)."""
        picture = self.pictures.read(image)
        patch = self.network.patch_size
        side = self.survey.options.detail or min(
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
        from dinolab.visuals.attention import attention_maps

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
        from dinolab.visuals.attention import mass_mask

        return mass_mask(self.attention_maps(image), SHARE).byte().numpy()

    def pca(self, image: Image) -> np.ndarray:
        """The first three principal components of the image's patches as colours, uint8 (h, w, 3)."""
        from dinolab.visuals.pca import fit, paint

        features = self.patch_features(image)
        return (255 * paint(features, fit([features])).rgb).round().byte().numpy()
