"""Multi-crop on the device, a whole micro-batch at once: the same draws as `views.py` carries out on the CPU, by PyTorch alone.

For machines whose cores cannot feed their GPU: workers then only read, decode and draw. Nothing here waits for the device.

It differs from `views.py` in this: crops that shrink are averaged over the exact area, and the hue is turned in continuous HSV.
That makes about a level on average, more at the finest edges. RandAugment and random erasing are left to the CPU.

B images of up to H x W pixels, of which n or B are at work together; V crops of an image, two global ones first.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinolab.data.crops import CONTRAST, HUE, SATURATION, Crops, shrunk
from dinolab.data.types import Views
from dinolab.data.views import BLUR_KERNEL, CUT, GREY_OF_RGB

MEMORY = 512 << 20  # bytes on the device that the images at work together may take, with all that is made of them
CUBIC = -0.75  # OpenCV's a in Keys' kernel (1981)
CUBIC_TAPS = 4
MULTIPLE = 8  # of which padded sides are one: half-precision products are slow otherwise


class Photos(NamedTuple):
    """Decoded images and the draws for their crops: what the loader yields in place of Views."""

    pixels: Tensor  # uint8 (P,), the images one after another, each (height, width, 3), RGB
    sizes: Tensor  # int64 (B, 2), their heights and widths
    crops: Tensor  # float32 (B, V, 27), by `tabulate`
    sides: tuple[int, int]  # S of global and s of local crops
    masks: Tensor | None  # the rest as in Views
    masked: Tensor | None
    indices: Tensor
    broken: list[tuple[int, str]]
    labels: Tensor | None = None
    extra: Tensor | None = None
    places: Tensor | None = None

    def to(self, device: torch.device) -> Views:
        """The crops, made on the device; from page-locked memory without waiting for the copy."""
        later = device.type == "cuda"
        pixels, sizes, crops = (x.to(device, non_blocking=later) for x in (self.pixels, self.sizes, self.crops))
        B, V = crops.shape[:2]
        S, s = self.sides
        global_crops = torch.empty((2, B, 3, S, S), dtype=torch.uint8, device=device)
        local_crops = torch.empty((V - 2, B, 3, s, s), dtype=torch.uint8, device=device)

        areas = sizes.prod(1)
        starts = areas.cumsum(0) - areas
        on_host = self.crops.numpy()
        for part, height, width in parts(self.sizes.numpy(), [(2, S), (V - 2, s)]):
            images = unpack(pixels, starts[part], sizes[part, 1], height, width)
            for views, which in ((global_crops, slice(0, 2)), (local_crops, slice(2, None))):
                if len(views):
                    taps = most_taps(on_host[part, which], views.shape[-1])
                    views[:, part] = make_views(images, crops[part, which], views.shape[-1], taps)
            del images  # before the next are unpacked
        return Views(global_crops, local_crops, *self[4:]).to(device)


def tabulate(crops: Sequence[Crops], sizes: np.ndarray) -> np.ndarray:
    """The draws of B images as one table for the device, once they are decoded at `sizes` (B, 2): float32 (B, V, 27).

    Columns: 0-3 top, left, bottom and right of the box in the decoded image's pixels; 4-12 the three colour maps before the turn
    of hue, 13 that turn, 14-22 the three after it (see `colour_maps`); 23 grey, 24 flip, 25 sigma of the blur, 26 solarisation.
    """
    c = Crops(*(np.stack(field) for field in zip(*crops)))
    factors = np.array([shrunk(crop, *size) for crop, size in zip(crops, sizes.tolist())])[:, None, None]
    starts = np.rint(c.boxes[..., :2] / factors)
    ends = np.rint((c.boxes[..., :2] + c.boxes[..., 2:]) / factors)
    before, turns, after = colour_maps(c)
    columns = (starts, ends, before, turns, after, np.stack([c.grey, c.flip, c.sigma, c.solarize], axis=-1))
    return np.concatenate(columns, axis=-1, dtype=np.float32)


def colour_maps(c: Crops) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour jitter of (B, V) crops in its order: three maps (B, V, 9), a turn of hue (B, V, 1), three more maps (B, V, 9).

    A map is the a, g, b of a * x + g * grey(x) + b * mean(grey(x)); those before or after the turn that have nothing to do are the
    identity. The turn is in turns, rounded to the CPU's 256 levels.
    """
    f = np.take_along_axis(c.factors, c.order, axis=-1)[..., None]  # (B, V, 4 in order, 1)
    kind = c.order[..., None]
    jittered = c.jitter[..., None, None]
    maps = np.where(kind == SATURATION, [0.0, 1.0, 0.0], np.where(kind == CONTRAST, [0.0, 0.0, 1.0], 0.0))
    maps = f * [1.0, 0.0, 0.0] + (1 - f) * maps
    hue_at = (c.order == HUE).argmax(axis=-1)[..., None, None]
    place = np.arange(4)[:, None]
    before = np.where(jittered & (place < hue_at), maps, [1.0, 0.0, 0.0])[..., :3, :]
    after = np.where(jittered & (place > hue_at), maps, [1.0, 0.0, 0.0])[..., 1:, :]
    turns = np.where(c.jitter, np.rint(c.factors[..., HUE] * 256) / 256, 0.0)
    return before.reshape(*c.jitter.shape, 9), turns[..., None], after.reshape(*c.jitter.shape, 9)


def parts(sizes: np.ndarray, crops: Sequence[tuple[int, int]]) -> Iterator[tuple[slice, int, int]]:
    """Neighbouring images that fit into MEMORY together, with the height and width that they are padded to.

    sizes: (B, 2). crops: (number, side) of an image's global and local ones.
    """
    rows, area = (max(number * side**power for number, side in crops) for power in (1, 2))
    padded = (-(-sizes // MULTIPLE) * MULTIPLE).tolist()
    start, (height, width) = 0, padded[0]
    for stop, (h, w) in enumerate(padded):
        higher, wider = max(height, h), max(width, w)
        bytes_each = 23 * higher * wider + 4 * rows * (higher + 4 * wider) + 80 * area
        if stop > start and (stop + 1 - start) * bytes_each > MEMORY:
            yield slice(start, stop), height, width
            start, higher, wider = stop, h, w
        height, width = higher, wider
    yield slice(start, len(sizes)), height, width


def most_taps(crops: np.ndarray, size: int) -> int:
    """The most pixels that one of a crop's pixels is made of, along one side."""
    return max(CUBIC_TAPS, int(np.ceil((crops[..., 2:4] - crops[..., :2]).max() / size)) + 1)


def unpack(pixels: Tensor, starts: Tensor, widths: Tensor, height: int, width: int) -> Tensor:
    """Images as (B, H, 3, W) in the type that products are made in. What lies beside an image is anything: its weight is 0.

    starts: int64 (B,), of the images in `pixels`, counted in pixels. widths: int64 (B,).
    """
    y, x = (torch.arange(side, device=pixels.device) for side in (height, width))
    at = (starts[:, None] + y * widths[:, None])[:, :, None] + x
    images = pixels.view(-1, 3)[at.clamp_(max=len(pixels) // 3 - 1)]
    half = pixels.device.type == "cuda"  # eleven bits hold eight, and the products take a fraction of the time
    return images.transpose(2, 3).to(torch.float16 if half else torch.float32, memory_format=torch.contiguous_format)


def make_views(images: Tensor, crops: Tensor, size: int, taps: int) -> Tensor:
    """Carry out the draws (B, V, 27) for crops of one size: (B, H, 3, W) -> (V, B, 3, size, size), whole numbers up to 255."""
    B, V = crops.shape[:2]
    _, height, _, width = images.shape
    crops = crops.flatten(0, 1)[:, :, None, None, None]  # (n, 27, 1, 1, 1)
    top, left, bottom, right = crops[:, :4, 0].unbind(1)  # each (n, 1, 1)
    grey, flip, sigma, solarize = crops[:, 23:].unbind(1)  # each (n, 1, 1, 1)

    down = resampling(top, bottom, size, height, taps).to(images.dtype)
    across = resampling(left, right, size, width, taps, flip[:, 0]).to(images.dtype)
    rows = down.view(B, V * size, height) @ images.flatten(2)
    x = rows.view(B * V, 3 * size, width) @ across.mT
    x = x.view(B * V, size, 3, size).float().round_().clamp_(0, 255)  # cubic weights overshoot

    for at in (4, 7, 10):
        x = mix(x, crops[:, at : at + 3])
    x = turn_hue(x, crops[:, 13])
    for at in (14, 17, 20):
        x = mix(x, crops[:, at : at + 3])
    x = torch.where(grey > 0, to_grey(x).round_(), x)
    x = blur(x, sigma[:, 0], images.dtype)
    x = x.round_()
    x = torch.where((solarize > 0) & (x >= 128), 255 - x, x)
    return x.view(B, V, size, 3, size).permute(1, 0, 3, 2, 4)


def resampling(start: Tensor, stop: Tensor, size: int, extent: int, taps: int, flip: Tensor | None = None) -> Tensor:
    """Weights (n, size, extent) that turn the pixels start .. stop - 1 of a side into `size` pixels.

    Where that shrinks, the share of each pixel's area; where it grows, cubic, with the crop's border pixels repeated.

    Args:
        start, stop: (n, 1, 1). flip: (n, 1, 1), 1 where the pixels come in reverse.
        taps: the most pixels that are weighed for one.
    """
    ratio = (stop - start) / size
    i = torch.arange(size, device=start.device)[:, None]
    if flip is not None:
        i = torch.where(flip > 0, size - 1 - i, i)
    k = torch.arange(taps, device=start.device)

    left = i * ratio
    area_at = left.floor() + k
    area = (torch.minimum(area_at + 1, left + ratio) - torch.maximum(area_at, left)).clamp_(min=0) / ratio

    centre = (i + 0.5) * ratio - 0.5
    cubic_at = centre.floor() - 1 + k
    cubic = keys_kernel((centre - cubic_at).abs())

    shrinks = ratio >= 1
    weights = torch.where(shrinks, area, cubic)
    at = torch.where(shrinks, area_at, cubic_at).clamp_(min=0)
    at = (start + torch.minimum(at, stop - start - 1)).long()
    matrix = weights.new_zeros((len(start), size, extent))
    for tap in range(taps):  # one by one, for sums in a fixed order
        matrix.scatter_add_(2, at[..., tap : tap + 1], weights[..., tap : tap + 1])
    return matrix


def keys_kernel(d: Tensor) -> Tensor:
    """Keys' cubic convolution kernel at distances d >= 0."""
    near = ((CUBIC + 2) * d - (CUBIC + 3)) * d * d + 1
    far = CUBIC * (((d - 5) * d + 8) * d - 4)
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))


def mix(x: Tensor, colour_map: Tensor) -> Tensor:
    """a * x + g * grey(x) + b * mean(grey(x)), clipped, fractions cut: x (n, size, 3, size), colour_map (n, 3, 1, 1, 1)."""
    a, g, b = colour_map.unbind(1)
    grey = to_grey(x)
    x = torch.addcmul(g * grey + b * grey.mean((1, 2, 3), keepdim=True), a, x)
    return x.add_(CUT).floor_().clamp_(0, 255)


def to_grey(x: Tensor) -> Tensor:
    """(n, size, 3, size) -> (n, size, 1, size)."""
    red, green, blue = x.split(1, dim=2)
    return GREY_OF_RGB[0] * red + GREY_OF_RGB[1] * green + GREY_OF_RGB[2] * blue


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue in HSV: x (n, size, 3, size), turns (n, 1, 1, 1)."""
    red, green, blue = x.unbind(2)
    value = x.amax(2)
    chroma = value - x.amin(2)
    scale = 1 / chroma.clamp(min=1e-6)
    at_blue = torch.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4)
    hue = torch.where(value == red, (green - blue) * scale, at_blue)  # in sixths of a turn
    offsets = torch.arange(5, 0, -2, device=x.device)[:, None]
    k = (hue[:, :, None] + (6 * turns + offsets)).remainder_(6)
    share = torch.minimum(k, 4 - k).clamp_(0, 1)
    return torch.addcmul(value[:, :, None], chroma[:, :, None], share, value=-1).round_()


def blur(x: Tensor, sigma: Tensor, dtype: torch.dtype) -> Tensor:
    """Gaussian blur along both sides, reflected at the borders: x (n, size, 3, size), sigma (n, 1, 1), 0 for none."""
    size = x.shape[1]
    offsets = torch.arange(BLUR_KERNEL, device=x.device) - BLUR_KERNEL // 2
    i = torch.arange(size, device=x.device)
    at = (offsets[:, None] + i).abs()  # where each tap of each pixel falls
    at = size - 1 - (size - 1 - at).abs()
    taps = (at[:, :, None] == i).to(x.dtype)  # (9, size, size)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, 0] ** 2).clamp(min=1e-3))  # (n, 9)
    kernel = kernel / kernel.sum(1, keepdim=True)
    matrix = (kernel @ taps.flatten(1)).view(-1, size, size).to(dtype)
    rows = matrix @ x.to(dtype).flatten(2)
    return (rows.view(-1, 3 * size, size) @ matrix.mT).view(x.shape).float()
