"""What everything downstream of training sees: images in, features out, whatever the backbone."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.models.backbone import Backbone
from dinolab.models.vit import Features, ViT

__all__ = ["Encoder", "Features", "evaluating", "normalise"]

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB, as DINO and DINOv2 use them
STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """uint8, or floats in [0, 1], (..., 3, H, W) -> floats with ImageNet's mean and standard deviation taken out."""
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    mean, std = _constants(x.device, x.dtype)
    return (x - mean) / std


@lru_cache
def _constants(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    with torch.inference_mode(False):  # or autograd refuses them later
        return tuple(torch.tensor(x, device=device, dtype=dtype).view(3, 1, 1) for x in (MEAN, STD))


def check_images(images: Tensor) -> None:
    """UserError for what an encoder does not take."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise UserError(f"an encoder takes images of shape (B, 3, H, W), not {tuple(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"an encoder takes uint8 images or floats in [0, 1], not {images.dtype}")


@contextmanager
def evaluating(encoder: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; each module's own mode again after it."""
    training = [module for module in encoder.modules() if module.training]
    encoder.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


class Encoder(nn.Module):
    """A frozen view on a backbone. `info` says where it comes from (method, data, step, ...)."""

    def __init__(self, backbone: Backbone, info: dict[str, Any] | None = None):
        super().__init__()
        self.backbone, self.info = backbone, info or {}
        self.dim, self.patch_size, self.image_size = backbone.dim, backbone.patch_size, backbone.image_size
        self.has_class_token = isinstance(backbone, ViT)  # and with it attention and more layers than the last

    @property
    def vit(self) -> ViT:
        """The backbone, where it is a ViT. Raises UserError where it is not."""
        if not isinstance(self.backbone, ViT):
            raise UserError(f"a {self.backbone.describe()} has no class token whose attention could be shown")
        return self.backbone

    def forward(self, images: Tensor) -> Features:
        """images (B, 3, H, W), uint8 or floats in [0, 1], any H and W -> cls (B, D), registers (B, R, D), patches (B, h, w, D)."""
        return self.layers(images, 1)[0]

    def layers(self, images: Tensor, n: int) -> list[Features]:
        """The features after each of the last n blocks, first to last, through the final norm."""
        return [features for (features,) in self.backbone.layers([self._prepare(images)], n)]

    def attention(self, images: Tensor) -> Tensor:
        """Attention weights of the last block: (B, heads, 1 + R + h*w, 1 + R + h*w)."""
        return self.vit.attention(self._prepare(images))

    def _prepare(self, images: Tensor) -> Tensor:
        check_images(images)
        return normalise(images.to(next(self.backbone.parameters()).device))
