"""Descriptors of whole images that retrieval and copy detection compare, made of what an encoder gives.

B images, h x w patches, D width of a token. Both protocols are those of DINO (arXiv 2104.14294, section 4.2.1).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.models.encoder import Features, scaled
from dinolab.models.inputs import Images, to_batch

POWER, FLOOR = 4.0, 1e-6
SCALES = (1.0, 2**-0.5, 0.5)
KINDS = ("cls", "gem", "both")


def generalised_mean(patches: Tensor, power: float = POWER) -> Tensor:
    """GeM pooling (arXiv 1711.02512, equation 3): the power mean of each feature over the patches, float32 (B, D).

    Args:
        patches: (B, h, w, D); values below 1e-6 count as 1e-6.
    """
    return patches.float().clamp(min=FLOOR).pow(power).mean((1, 2)).pow(1 / power)


def over_scales(images: Tensor, describe: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of descriptors at the scales 1, 1/sqrt(2) and 1/2, with length 1 for each image, (B, D).

    Images are shrunk by bilinear interpolation without a filter, as in DINO's code. That code divides by the length of the whole
    batch's descriptors, which is the same for a batch of one.

    Args:
        images: floats (B, C, H, W).
        describe: images -> descriptors (B, D), which are added as they are.
    """
    sizes = (images if s == 1 else F.interpolate(images, scale_factor=s, mode="bilinear") for s in SCALES)
    return F.normalize(torch.stack([describe(image) for image in sizes]).mean(0), dim=1)


class Descriptor(nn.Module):
    """An encoder that gives a descriptor in place of the class token.

    Args:
        encoder: any `Encoder`.
        tokens: "cls": the class token; "gem": the patches by GeM pooling; "both": one after the other.
        multi_scale: average over three scales, see `over_scales`.
    """

    def __init__(self, encoder: Any, tokens: str = "cls", multi_scale: bool = False) -> None:
        super().__init__()
        self.encoder, self.tokens, self.multi_scale = encoder, tokens, multi_scale

    def forward(self, images: Images) -> Features:
        """See `Encoder.__call__`."""
        if not self.multi_scale:
            return self.described(images)
        pixels = self.encoder.pixels
        batch = scaled(to_batch(images, pixels), pixels)
        cls = over_scales(batch, lambda scaled_images: self.described(scaled_images).cls)
        return Features(cls, cls.new_empty(len(cls), 0, cls.shape[1]), cls[:, None, None])

    def described(self, images: Images) -> Features:
        """The encoder's features of the images in one scale, with the descriptor in place of the class token."""
        features = self.encoder(images)
        if self.tokens == "cls":
            return features
        pooled = generalised_mean(features.patches)
        cls = pooled if self.tokens == "gem" else torch.cat([features.cls.float(), pooled], 1)
        return features._replace(cls=cls)
