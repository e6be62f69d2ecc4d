"""Encoders: images in, features out. Evaluations, pictures and exports see nothing else of a network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.models.backbone import Backbone
from dinolab.models.inputs import Images, to_batch
from dinolab.models.vit import Features, ViT
from dinolab.pixels import RGB, Pixels
from dinolab.precision import quick_products

__all__ = ["BackboneEncoder", "Encoder", "Features", "arranged", "evaluating", "normalise", "refuse_infinite", "scaled"]


class Encoder(Protocol):
    """A network that computes features of images, whatever its architecture and whoever trained it.

    Shapes: B images of C channels, H x W pixels, h x w patches; R registers, D the width of the features.
    """

    dim: int  # D
    patch_size: int  # side of a patch, in pixels
    image_size: int  # side of the images that it was trained with, in pixels
    pixels: Pixels
    has_class_token: bool  # if not, there is no attention, and no layer but the last
    info: dict[str, Any]  # where it comes from: method, data, step, ...

    def __call__(self, images: Images) -> Features:
        """Computes features.

        Args:
            images: a tensor (B, C, H, W), integers as they are stored or floats in [0, 1], of any height and width; or arrays
                (H, W, C), images of Pillow, or a list of these.

        Returns:
            cls (B, D), registers (B, R, D) and patches (B, h, w, D).

        Raises:
            UserError: the images have another shape, type or range than the encoder takes.
        """
        ...

    def layers(self, images: Images, n: int) -> list[Features]:
        """The features after each of the last n blocks, first to last, after the final norm.

        Raises UserError for n above 1 where there is no class token.
        """
        ...

    def attention(self, images: Images) -> Tensor:
        """Attention weights of the last block: (B, heads, 1 + R + h*w, 1 + R + h*w).

        Raises UserError where there is no class token.
        """
        ...

    # Every encoder is a torch.nn.Module; these are the methods of one that the package uses.
    def to(self, device: torch.device | str) -> Self: ...
    def eval(self) -> Self: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def buffers(self) -> Iterator[Tensor]: ...
    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...


class BackboneEncoder(nn.Module):
    """An `Encoder` around a backbone of this library."""

    def __init__(self, backbone: Backbone, info: dict[str, Any] | None = None):
        super().__init__()
        self.backbone: Backbone = backbone
        self.info: dict[str, Any] = info or {}
        self.dim, self.patch_size, self.image_size = backbone.dim, backbone.patch_size, backbone.image_size
        self.pixels = backbone.pixels
        self.has_class_token = isinstance(backbone, ViT)

    @property
    def vit(self) -> ViT:
        """The backbone if it is a ViT. Raises UserError if it is not."""
        if not isinstance(self.backbone, ViT):
            raise UserError(f"{self.backbone.describe()} has no class token whose attention could be shown")
        return self.backbone

    def forward(self, images: Images) -> Features:
        """See `Encoder.__call__`."""
        return self.layers(images, 1)[0]

    def layers(self, images: Images, n: int) -> list[Features]:
        """See `Encoder.layers`."""
        return [features for (features,) in self.backbone.layers([self._prepare(images)], n)]

    def attention(self, images: Images) -> Tensor:
        """See `Encoder.attention`."""
        return self.vit.attention(self._prepare(images))

    def _prepare(self, images: Images) -> Tensor:
        batch = to_batch(images, self.pixels)
        return arranged(normalise(batch.to(next(self.backbone.parameters()).device), self.pixels), self)


def scaled(images: Tensor, pixels: Pixels) -> Tensor:
    """Integers from 0 to `pixels.maximum` as floats in [0, 1]; floats stay as they are."""
    return images if images.is_floating_point() else images.float() / pixels.maximum


def normalise(images: Tensor, pixels: Pixels = RGB) -> Tensor:
    """Subtracts the mean of each channel and divides by its standard deviation.

    Args:
        images: (..., C, H, W), integers from 0 to `pixels.maximum`, or floats in [0, 1].
        pixels: what the network was trained with.

    Returns:
        Floats of the same shape.
    """
    x = scaled(images, pixels)
    mean, deviation = _constants(pixels, x.device, x.dtype)
    return (x - mean) / deviation


def arranged(images: Tensor, encoder: Any) -> Tensor:
    """Images (B, C, H, W) in the order in memory that the encoder's network is quickest with; shape and values stay the same.

    Networks of convolutions get the channels of a pixel side by side on CPUs and CUDA, and keep that order up to their last layer.
    """
    by_pixel = not encoder.has_class_token and images.device.type in ("cpu", "cuda")
    return images.contiguous(memory_format=torch.channels_last) if by_pixel else images


@lru_cache
def _constants(pixels: Pixels, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The mean and the standard deviation of each channel, (C, 1, 1) each."""
    with torch.inference_mode(False):  # or autograd refuses them later
        return tuple(
            torch.tensor(x, device=device, dtype=dtype).view(-1, 1, 1) for x in (pixels.mean, pixels.deviation)
        )


@contextmanager
def evaluating(network: nn.Module | Encoder) -> Iterator[None]:
    """Inside the context the network is in evaluation mode and computes no gradients; its float32 products are quick ones.

    Afterwards each of its modules is in the mode that it was in before.
    """
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.inference_mode(), quick_products():
            yield
    finally:
        for module in training:
            module.training = True


def refuse_infinite(features: Tensor, encoder: Any, image: Callable[[int], str] = lambda row: "an image") -> None:
    """Raises UserError, with the network, the image and the weight at fault, where a feature is no finite number.

    Args:
        features: (B, ...), or of other shapes if `image` needs no row.
        image: names the image of a row.
    """
    if features.isfinite().all():
        return
    row = int((~features.isfinite()).flatten(1).any(1).nonzero()[0, 0])
    values = (pair for pairs in (encoder.named_parameters(), encoder.named_buffers()) for pair in pairs)
    weight = next((name for name, x in values if x.is_floating_point() and not x.isfinite().all()), "")
    cause = (
        f"its weight {weight} holds values that are not finite, so its training has diverged; take an earlier one"
        if weight
        else "its weights are finite; try precision=fp32, or look for what overflows in it"
    )
    raise UserError(f"{type(encoder).__name__}: its features of {image(row)} are not finite numbers: {cause}")
