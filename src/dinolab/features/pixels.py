"""Raw pixels as features: the floor that a trained encoder has to be above."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.models.encoder import Features


class PixelEncoder(nn.Module):
    """32 x 32 RGB pixels, from -0.5 (black) to 0.5 (white), as the class token (B, 3072).

    Only the class token means anything: there are no registers, and the one patch is the class token again. Mid-grey is
    zero because cosine similarity of pixels from 0 up sees nearly all images as alike, which makes too low a floor; so
    does taking out each image's own mean, though less.
    """

    side = 32
    dim = 3 * side * side
    patch_size = 1
    has_class_token = False  # the one there is, is the patch too

    def forward(self, images: Tensor) -> Features:
        """uint8 (B, 3, H, W) -> Features."""
        small = F.interpolate(images.float() / 255, (self.side, self.side), mode="bilinear", antialias=True)
        cls = (small - 0.5).flatten(1)
        return Features(cls, torch.empty(len(cls), 0, self.dim, device=cls.device), cls[:, None, None])

    def layers(self, images: Tensor, n: int) -> list[Features]:
        """All there is, one, whatever n."""
        return [self(images)]
