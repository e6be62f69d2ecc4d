"""The images that an encoder is called with: tensors, arrays and Pillow's images, checked before they are computed with."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinolab.errors import UserError
from dinolab.pixels import RGB, Pixels

Images: TypeAlias = "Tensor | np.ndarray | Image.Image | Sequence[Images]"
SLACK = 0.25  # beyond [0, 1], which bicubic interpolation may overshoot


def to_batch(images: Images, pixels: Pixels) -> Tensor:
    """Images as a batch (B, C, H, W), checked by `check_images`.

    Args:
        images: a tensor (B, C, H, W); an array (H, W, C), (B, H, W, C) or (B, C, H, W); an image of Pillow; or a list of these, all
            of one size. Of one image a batch of one is made.
        pixels: what the encoder takes.

    Raises:
        UserError: they are none of these, have several sizes, or another shape, type or range than the encoder takes.
    """
    batch = convert(images, pixels)
    check_images(batch, pixels)
    return batch


def convert(images: Images, pixels: Pixels) -> Tensor:
    """As `to_batch`, unchecked."""
    if isinstance(images, Tensor):
        return images
    if isinstance(images, Image.Image):
        return convert(pillow_array(images, pixels), pixels)
    if isinstance(images, np.ndarray):
        last = images.ndim in (3, 4) and images.shape[-1] == pixels.channels
        array = np.ascontiguousarray(np.moveaxis(images, -1, -3) if last else images)
        if array.dtype.kind not in "iufb":
            raise UserError(f"an encoder takes arrays of numbers, not of {array.dtype}")
        tensor = torch.tensor(array.astype(np.float32) if array.dtype == np.float64 else array)
        return tensor[None] if tensor.ndim == 3 else tensor
    if isinstance(images, Sequence) and not isinstance(images, str | bytes) and len(images):
        parts = [
            convert(image[None] if isinstance(image, Tensor) and image.ndim == 3 else image, pixels) for image in images
        ]
        if len({(part.shape[1:], part.dtype) for part in parts}) > 1:
            kinds = ", ".join(sorted({f"{tuple(part.shape[1:])} {part.dtype}" for part in parts}))
            raise UserError(
                f"images of several sizes or types ({kinds}) make no batch: resize them, or give one at a time"
            )
        return torch.cat(parts)
    name = f"a {type(images).__name__}" if not isinstance(images, Sequence) or len(images) else "nothing"
    raise UserError(
        f"an encoder takes tensors (B, C, H, W), arrays (H, W, C), images of Pillow, or lists of these, not {name}"
    )


def pillow_array(image: Image.Image, pixels: Pixels) -> np.ndarray:
    """An image of Pillow as uint8 (H, W, 3), on white where it is transparent. Raises UserError where it is not of 8 bits."""
    if pixels.channels != RGB.channels or image.mode.startswith(("I", "F")):
        raise UserError(
            f"an image of Pillow of mode {image.mode} is not what this encoder takes: give an array or a tensor"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def check_images(images: Tensor, pixels: Pixels) -> None:
    """Raises UserError where images are not (B, C, H, W), have another type than `pixels` are stored with, or are floats outside [0, 1]."""
    if images.ndim != 4 or images.shape[1] != pixels.channels:
        expected = f"(B, {pixels.channels}, H, W)"
        raise UserError(f"this encoder takes images of shape {expected}, not {tuple(images.shape)}")
    stored = torch.uint8 if pixels.maximum <= torch.iinfo(torch.uint8).max else torch.uint16
    if images.is_floating_point():
        check_range(images, pixels)
    elif images.dtype != stored:
        kind = str(stored).removeprefix("torch.")
        raise UserError(f"this encoder takes {kind} images or floats in [0, 1], not {images.dtype}")


def check_range(images: Tensor, pixels: Pixels) -> None:
    """Raises UserError where floats are clearly outside [0, 1], or are no numbers."""
    if not images.numel() or torch.compiler.is_compiling() or torch.jit.is_tracing():  # which cannot look at values
        return
    low, high = torch.stack(images.detach().aminmax()).tolist()  # one transfer from the device
    if low >= -SLACK and high <= 1 + SLACK:
        return
    found = f"this encoder takes floats in [0, 1] and normalises them itself; these lie in [{low:.4g}, {high:.4g}]"
    if low >= 0 and 2 < high <= pixels.maximum:
        raise UserError(f"{found}: divide by {pixels.maximum}")
    raise UserError(f"{found}: undo the normalisation" if low < 0 else found)
