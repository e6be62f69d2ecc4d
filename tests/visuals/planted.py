"""An encoder whose features and attention are known: they follow the patches' mean colours."""

import torch
from torch import Tensor, nn

from dinolab.models.encoder import Features


class ByColour(nn.Module):
    """A patch's feature is its mean colour less mid-grey; head i looks where channel i is bright."""

    patch_size, image_size, dim = 8, 32, 3

    def colours(self, images: Tensor) -> Tensor:
        assert not self.training
        assert images.dtype == torch.uint8
        return nn.functional.avg_pool2d(images.float() / 255, 8).permute(0, 2, 3, 1)

    def forward(self, images: Tensor) -> Features:
        patches = self.colours(images) - 0.5
        return Features(patches.mean((1, 2)), patches[:, 0, :0], patches)

    def attention(self, images: Tensor) -> Tensor:
        bright = self.colours(images).flatten(1, 2).transpose(1, 2) ** 4
        weights = torch.zeros(len(images), 3, 1 + bright.shape[-1], 1 + bright.shape[-1])
        weights[:, :, 0, 0] = 0.1
        weights[:, :, 0, 1:] = 0.9 * bright / bright.sum(-1, keepdim=True)
        return weights


def scene(height: int, width: int, x: int, y: int, colour: tuple[int, int, int] = (250, 30, 30)) -> Tensor:
    """uint8 (3, height, width): a square of 16 pixels in one colour, its top left at (x, y), on dark, slanted grey."""
    image = (30 + 40 * torch.linspace(0, 1, width).expand(3, height, width)).to(torch.uint8)
    image[:, y : y + 16, x : x + 16] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return image
