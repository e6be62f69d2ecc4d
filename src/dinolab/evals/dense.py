"""Features of every patch of an image, and how values of patches become values of pixels.

H x W an image, h x w its patches, C features of a patch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab import memory
from dinolab.errors import UserError
from dinolab.evals.contract import Context
from dinolab.evals.pairs import PairSet, Size, load_all
from dinolab.features.pixels import PixelEncoder
from dinolab.models.encoder import Features, evaluating, refuse_infinite
from dinolab.models.inputs import Images, to_batch
from dinolab.pixels import RGB
from dinolab.precision import autocast, choose_precision

EVERY_BLOCK = 1 << 10  # more blocks than any network has
SHARE = 0.4  # of the memory at hand that features may take
UNKNOWN_ROOM = 4 << 30  # bytes, where the system does not say how much memory there is


class PatchPixels(nn.Module):
    """The floor for an encoder: each patch of 16 x 16 pixels by the colours of its 4 x 4 parts, from -0.5 (black) to 0.5 (white)."""

    patch_size, parts = 16, 4
    pixels = RGB
    dim = 3 * parts**2
    has_class_token = False

    def forward(self, images: Images) -> Features:
        x = to_batch(images, self.pixels) - 0.5
        small = F.avg_pool2d(x, self.patch_size // self.parts)
        patches = F.pixel_unshuffle(small, self.parts).permute(0, 2, 3, 1)
        return Features(patches.mean((1, 2)), patches.new_empty(len(x), 0, self.dim), patches)


class Tokens(NamedTuple):
    """What a head sees of one image."""

    patches: Tensor  # (h, w, C), the blocks one after another
    cls: Tensor  # (blocks, D); (blocks, 0) for a network without a class token

    def joined(self) -> Tensor:
        """Each block's patches and its class token side by side, block after block: float32 (h, w, C + blocks * D)."""
        h, w, _ = self.patches.shape
        parts = zip(self.patches.chunk(len(self.cls), 2), self.cls)
        return torch.cat([part.float() for patches, cls in parts for part in (patches, cls.expand(h, w, -1))], 2)


@dataclass(frozen=True)
class View:
    """Where the pixels of an image lie in the padded image that an encoder saw."""

    image: Size  # of the map, in pixels
    resized: Size
    padded: Size

    def matrices(self, grid: Size, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Bilinear interpolation from a grid that covers the padded image to the image's pixels: (H, h) and (W, w).

        Their product with values on the grid, `down @ values @ across.T`, is F.interpolate(align_corners=False) where nothing was
        padded.
        """
        axes = zip(self.image, self.resized, self.padded, grid)
        down, across = (interpolation(*axis).to(device) for axis in axes)
        return down, across

    def cells(self, grid: Size) -> Tensor:
        """The cell of the grid in which the centre of each pixel lies, int64 (H, W), numbered row by row."""
        axes = zip(self.image, self.resized, self.padded, grid)
        down, across = (positions(*axis).floor().long().clamp(0, axis[3] - 1) for axis in axes)
        return down[:, None] * grid[1] + across


def positions(pixels: int, resized: int, padded: int, cells: int) -> Tensor:
    """Where the centres of pixels lie along an axis of the grid, in cells from its edge, float32 (pixels,)."""
    before = (padded - resized) // 2
    return (((torch.arange(pixels) + 0.5) / pixels) * resized + before) / padded * cells


def interpolation(pixels: int, resized: int, padded: int, cells: int) -> Tensor:
    """The weights of the cells for each pixel along an axis, float32 (pixels, cells)."""
    place = (positions(pixels, resized, padded, cells) - 0.5).clamp(0, cells - 1)
    low = place.floor().long().clamp(max=max(0, cells - 2))
    share = place - low
    weights = torch.zeros(pixels, cells)
    weights.scatter_(1, low[:, None], (1 - share)[:, None])
    return weights.scatter_add_(1, (low[:, None] + 1).clamp(max=cells - 1), share[:, None])


def centre_padding(side: int, multiple: int) -> tuple[int, int]:
    """Pixels before and after a side that make it a multiple of the patch size; an odd one goes behind, as in DINOv2's code."""
    missing = -side % multiple
    return missing // 2, missing - missing // 2


class Sample(NamedTuple):
    """One image for a head, and the map that it is to predict."""

    tokens: Tokens
    view: View
    truth: Tensor  # (H, W)


@dataclass(frozen=True)
class DenseEncoder:
    """An encoder as the heads use it."""

    encoder: Any
    blocks: int  # 1, or 4
    spread: bool  # whether four blocks are evenly spaced; False takes the last four
    context: Context

    @staticmethod
    def of(encoder: Any, blocks: int, spread: bool, context: Context) -> "DenseEncoder":
        network = PatchPixels() if isinstance(encoder, PixelEncoder) else encoder
        return DenseEncoder(network.to(context.device), blocks, spread, context)

    def tokens(self, image: Tensor, flip: bool = False) -> tuple[Tokens, Size]:
        """Features of an image, uint8 (3, H, W), in float16, and its padded size. Raises UserError where they are not finite.

        Args:
            flip: mirror the image, and mirror its features back.
        """
        x = self.padded(image.to(self.context.device))
        x = x.flip(-1) if flip else x
        precision = choose_precision(self.context.precision, self.context.device)
        with evaluating(self.encoder), autocast(self.context.device, precision):
            found = self.chosen(x[None])
            patches = torch.cat([one.patches[0] for one in found], 2)
            patches = patches.flip(1) if flip else patches
            cls = torch.stack([one.cls[0] for one in found])
        refuse_infinite(patches, self.encoder)
        cls = cls if getattr(self.encoder, "has_class_token", True) else cls[:, :0]
        size = (x.shape[1], x.shape[2])
        with torch.inference_mode(False):  # or nothing could be trained on them
            return Tokens(patches.half().clone(), cls.half().clone()), size

    def chosen(self, images: Tensor) -> Sequence[Features]:
        if self.blocks == 1:
            return [self.encoder(images)]
        if not self.spread:
            found = self.encoder.layers(images, self.blocks)
        else:
            every = self.encoder.layers(images, EVERY_BLOCK)
            found = [every[(n + 1) * len(every) // self.blocks - 1] for n in range(self.blocks)]
        if len(found) < self.blocks or (self.spread and len(every) < self.blocks):
            raise UserError(f"blocks={self.blocks}: the encoder has fewer blocks; set blocks=1")
        return found

    def padded(self, image: Tensor) -> Tensor:
        """The image as floats (3, H', W') in [0, 1], with the mean colour around it, so that its sides are multiples of a patch."""
        down, across = (centre_padding(side, self.encoder.patch_size) for side in image.shape[1:])
        x = image.float() / RGB.maximum
        mean = torch.tensor(self.encoder.pixels.mean, device=x.device)[:, None, None]
        return F.pad(x - mean, (*across, *down)) + mean

    def sample(self, image: Tensor, truth: Tensor, flip: bool = False) -> Sample:
        """An image and its map for a head, mirrored both if `flip`."""
        if flip:
            image, truth = image.flip(-1), truth.flip(-1)
        tokens, padded = self.tokens(image)
        view = View((truth.shape[0], truth.shape[1]), (image.shape[1], image.shape[2]), padded)
        return Sample(tokens, view, truth)


class TrainingSamples:
    """Training images and their mirror images, by number. Features are computed once where memory suffices, else each time."""

    def __init__(self, pairs: PairSet, encoder: DenseEncoder, size: Size | None, flips: bool) -> None:
        self.pairs, self.encoder, self.size, self.flips = pairs, encoder, size, flips
        self.kept: list[Sample] = []
        first = encoder.sample(*pairs.load(0, size))
        tensors = (*first.tokens, first.truth)
        needed = len(self) * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if needed <= SHARE * room():
            title = f"patches of {pairs.source.name}"
            for image, truth in load_all(pairs, size, encoder.context, title):
                self.kept += [encoder.sample(image, truth, flip) for flip in (False, True)[: 1 + flips]]

    def __len__(self) -> int:
        return len(self.pairs) * (1 + self.flips)

    def __getitem__(self, number: int) -> Sample:
        if self.kept:
            return self.kept[number]
        image, flip = divmod(number, 1 + self.flips)
        return self.encoder.sample(*self.pairs.load(image, self.size), bool(flip))


def room() -> int:
    """Bytes of memory that this process can use."""
    try:
        return memory.room(torch.device("cpu"))[0]
    except (OSError, StopIteration):  # no Linux
        return UNKNOWN_ROOM


def test_samples(
    pairs: PairSet, encoder: DenseEncoder, size: Size | None, scales: Sequence[float], flips: bool
) -> Iterator[tuple[Tensor, Tensor, list[tuple[Tokens, View]]]]:
    """Each test image in order: the image as it was resized, uint8 (3, h, w), its map, and its tokens at each scale.

    Args:
        scales: factors of the image's size.
        flips: whether the mirror image is added at each scale, its tokens mirrored back.
    """
    for image, truth in load_all(pairs, size, encoder.context, f"test images of {pairs.source.name}"):
        seen = []
        for scale in scales:
            height, width = (max(1, round(scale * side)) for side in image.shape[1:])
            scaled = image
            if scale != 1:
                scaled = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
            for flip in (False, True)[: 1 + flips]:
                tokens, padded = encoder.tokens(scaled, flip)
                seen.append((tokens, View((truth.shape[0], truth.shape[1]), (height, width), padded)))
        yield image, truth, seen


def to_pixels(values: Tensor, view: View) -> Tensor:
    """Values of patches (C, h, w), interpolated bilinearly to the pixels of the image: (C, H, W)."""
    down, across = view.matrices((values.shape[1], values.shape[2]), values.device)
    return down @ (values @ across.T)


def check_blocks(encoder: Any, blocks: int) -> None:
    """Raises UserError where four blocks are asked of a network that has features of its last layer alone."""
    if blocks > 1 and not getattr(encoder, "has_class_token", True):
        name = getattr(encoder, "info", {}).get("source") or type(encoder).__name__
        raise UserError(
            f"blocks={blocks}: {name} has no class token, and so features of its last layer alone; set blocks=1"
        )
