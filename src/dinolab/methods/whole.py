"""A frozen encoder that sees each image as a whole: once, before the first step, or anew in every step.

Shapes: B images, N all images of a source, D width of the encoder's features, h x w its patches, n x n those of a crop.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.data import draws
from dinolab.data.types import Needs, Source, Views
from dinolab.data.views import eval_margin, eval_view
from dinolab.errors import UserError
from dinolab.features.extract import extract
from dinolab.features.options import FOLDER
from dinolab.fields import option
from dinolab.losses import at_least_fp32
from dinolab.methods.frozen import Seen, grid
from dinolab.models.encoder import Encoder, Features


@dataclass
class Whole:
    mirror: bool = option(False, "average the teacher's features of each image and of its mirror image")
    keep: str = option(
        "disk",
        "where the teacher's features are kept, which are computed before the first step; disk: in memory, and with those of "
        "evaluations for the next run; memory: there alone; no: they are computed anew in every step",
        choices=("disk", "memory", "no"),
    )


class Summary(nn.Module):
    """An encoder whose class token is all that is kept of an image: its class token and, if wanted, its patches behind it."""

    def __init__(self, encoder: Any, mirror: bool, patches: bool):
        super().__init__()
        self.encoder, self.mirror, self.patches = encoder, mirror, patches

    def forward(self, images: Tensor) -> Features:
        """uint8 images (B, C, H, W) -> cls (B, D) or (B, D + h * w * D); registers and patches have no values."""
        seen = self.encoder(images)
        cls, patches = seen.cls, seen.patches
        if self.mirror:
            other = self.encoder(images.flip(-1))
            cls, patches = (cls + other.cls) / 2, (patches + other.patches.flip(2)) / 2
        kept = torch.cat([cls, patches.flatten(1)], 1) if self.patches else cls
        return Features(kept, cls[:, None, :0], patches[..., :0])


class OnWholeImages:
    """See `frozen.Sees`. The patches are resampled at those of the crops."""

    views = 1

    def __init__(self, encoder: Encoder, patch_size: int, size: int, options: Whole, patches: bool, seed: int):
        """
        Args:
            patch_size: the student's.
            size: side of the evaluation views in pixels (0: that of the encoder's training).
            patches: whether they are wanted.
            seed: of the run, on which the order of its images depends.
        """
        theirs = encoder.patch_size
        self.size = size or encoder.image_size // theirs * theirs
        if patches and self.size % theirs:
            fits = max(1, self.size // theirs) * theirs
            raise UserError(
                f"teacher_size={self.size} is not a multiple of the teacher's patch size of {theirs}; {fits} is"
            )
        self.options, self.patch_size, self.seed = options, patch_size, seed
        self.summary = Summary(encoder, options.mirror, patches).eval()
        with torch.no_grad():
            blank = encoder(torch.zeros(1, encoder.pixels.channels, self.size, self.size, dtype=torch.uint8))
        self.dim = blank.cls.shape[1]
        self.map = tuple(blank.patches.shape[1:]) if patches else (0, 0, 0)  # h, w, D of a patch
        self.patches_each = self.map[0] * self.map[1]
        self.patch_dim = self.map[-1] if self.patches_each else 0
        self.cls = self.patches = torch.empty(0)  # (N, D) and (N, h * w * D), where they are kept
        self.images = 0

    @staticmethod
    def needs(size: int, options: Whole, patches: bool) -> Needs:
        """What the loader must bring: where the crops lie in the image, and the view of it if nothing is kept."""
        view = partial(whole_view, size=size) if options.keep == "no" else None
        return Needs(extra=view, places=patches)

    def open(self, source: Source, device: torch.device, workers: int, precision: str) -> None:
        self.images, self.device = len(source), device
        if self.options.keep == "no":
            return
        cache = Path(FOLDER).expanduser() if self.options.keep == "disk" else None
        found = extract(
            self.summary, source, self.size, device=device, workers=workers, precision=precision, cache=cache
        )
        rows = found.matrix()
        if len(rows) < len(source):  # images that cannot be read are not drawn either
            rows = rows.mean(0).expand(len(source), -1).index_copy(0, found.kept, rows)
        self.cls = rows[:, : self.dim].clone()
        self.patches = rows[:, self.dim :].half()  # a few thousand maps fit into memory

    def seen(self, views: Views) -> Seen:
        device = views.global_crops.device
        cls, maps = self.kept(views.indices, device) if views.extra is None else self.compute(views.extra)
        if views.places is None:  # no patches are wanted
            return Seen(cls[None], maps, None)
        n = grid(views.global_crops.shape[-1], self.patch_size)
        return Seen(cls[None], *at_places(maps, views.places[:, :2].transpose(0, 1), n, self.size))

    def compute(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class tokens (B, D) and maps (B, h, w, D) of evaluation views, uint8 (B, C, size, size)."""
        cls, maps = self.summary(images).cls.tensor_split([self.dim], 1)
        return cls, maps.unflatten(1, self.map)

    def kept(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """The same of the images at some positions of the source, int64 (B,)."""
        if not self.images:  # a step that is only measured, before there are any: its values do not matter
            blank = partial(torch.zeros, device=device)
            return blank(len(indices), self.dim), blank(len(indices), *self.map)
        cls, maps = (x[indices].to(device, non_blocking=True) for x in (self.cls, self.patches))
        return cls, maps.unflatten(1, self.map)

    def inputs(self, batches: Iterable[list[Views]], most: int, device: torch.device) -> Iterator[Tensor]:
        most = min(most, self.images)
        if self.options.keep != "no":
            yield torch.from_numpy(draws.order(self.seed, 0, self.images)[:most])[None]
            return
        count = 0
        for step in batches:
            images = torch.cat([cast(Tensor, part.to(device).extra) for part in step])
            yield images[None, : most - count]
            count += len(images)
            if count >= most:
                break

    def look(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        x = inputs[0]
        cls, maps = self.compute(x) if self.options.keep == "no" else self.kept(x, self.device)
        return cls[None], maps.flatten(1, 2)[None]


def whole_view(image: Any, _: Any, size: int) -> Any:
    """The view of an image (H, W, 3) that evaluations have, uint8 (3, size, size); nothing is drawn."""
    return eval_view(image, size)


def at_places(maps: Tensor, places_VB5: Tensor, n: int, size: int) -> tuple[Tensor, Tensor]:
    """Maps of whole images, bilinearly resampled at the n x n patches of crops.

    Args:
        maps: patches of the images' evaluation views, (B, h, w, D).
        places_VB5: where V crops of each image lie, see `crops.places`.
        n: patches along a side of a crop.
        size: side of the evaluation views in pixels, which show the centre of the images.

    Returns:
        The values (V * B, n, n, D), and bool (V * B, n, n), whether the centre of a patch lies in the view; outside of it, the value
        is that at the view's border.
    """
    top, left, height, width, mirrored = places_VB5.flatten(0, 1)[..., None].unbind(1)  # each (V * B, 1)
    centres = (torch.arange(n, device=maps.device) + 0.5) / n
    y = top + height * centres
    x = left + width * torch.where(mirrored > 0.5, 1 - centres, centres)
    x, y = ((2 * u - 1) * eval_margin(size) for u in (x, y))  # from -1 to 1 in the view
    at = torch.stack([x[:, None, :].expand(-1, n, n), y[:, :, None].expand(-1, n, n)], -1)
    with torch.autocast(maps.device.type, enabled=False):
        channels_first = at_least_fp32(maps).movedim(-1, 1).repeat(len(places_VB5), 1, 1, 1)
        found = F.grid_sample(channels_first, at.to(channels_first.dtype), padding_mode="border", align_corners=False)
    return found.movedim(1, -1), (at.abs() <= 1).all(-1)
