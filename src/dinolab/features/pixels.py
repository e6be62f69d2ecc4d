"""Raw pixels as features: the baseline that a trained encoder must beat."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.models.encoder import Features, scaled
from dinolab.models.inputs import Images, to_batch
from dinolab.pixels import RGB


class PixelEncoder(nn.Module):
    """An `Encoder` without weights: 32 x 32 RGB pixels, from -0.5 (black) to 0.5 (white), as `cls` (B, 3072).

    There are no registers, and the one patch has the same features as `cls`. Mid-grey is zero, because cosine similarity of
    pixels that begin at 0 finds nearly all images alike, which would make the baseline too easy to beat. Subtracting the mean of
    each image has the same effect, though a smaller one.
    """

    side = 32
    pixels = RGB
    dim = RGB.channels * side * side
    patch_size = 1
    image_size = 224  # of the view that evaluations cut from an image; it is resized to `side` here
    has_class_token = False

    def __init__(self) -> None:
        super().__init__()
        self.info: dict[str, Any] = {}

    def forward(self, images: Images) -> Features:
        """See `Encoder.__call__`."""
        x = scaled(to_batch(images, self.pixels), self.pixels)
        small = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        cls = (small - 0.5).flatten(1)
        return Features(cls, torch.empty(len(cls), 0, self.dim, device=cls.device), cls[:, None, None])

    def layers(self, images: Images, n: int) -> list[Features]:
        """A list of one, whatever n is: there is only one layer."""
        return [self(images)]

    def attention(self, images: Images) -> Tensor:
        """Raises UserError: pixels have no attention."""
        raise UserError("raw pixels have no class token whose attention could be shown")


class PatchColours(nn.Module):
    """An `Encoder` without weights whose patches are their mean colours: the baseline for what is measured on patches.

    The features of a patch are red, green and blue, from -0.5 to 0.5, and `cls` is the mean of all patches.
    """

    pixels = RGB
    dim = RGB.channels
    image_size = 224
    has_class_token = False

    def __init__(self, patch_size: int = 16) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.info: dict[str, Any] = {}

    def forward(self, images: Images) -> Features:
        """See `Encoder.__call__`."""
        x = scaled(to_batch(images, self.pixels), self.pixels)
        patches = F.avg_pool2d(x, self.patch_size).permute(0, 2, 3, 1) - 0.5
        return Features(patches.mean((1, 2)), patches[:, :0].flatten(1, 2), patches)
